//! Commands, arguments, and the text of `--help`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pollgate_control::observe::dump::Table;

use crate::config::DEFAULT_SOCKET;
use crate::output::Machine;
use crate::pktgen::PktgenArgs;
use crate::replay::Then;

/// What was typed.
#[derive(Debug, Parser)]
#[command(name = "pollgate", version, about = "A poll-mode gateway for Kubernetes Services")]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway in the foreground until SIGTERM or SIGINT
    Run(RunArgs),
    /// Run captured packets through the gateway's pipeline, offline
    Replay(ReplayArgs),
    /// Build a lab in network namespaces, run the gateway in it, and send traffic to a Service
    Demo(DemoArgs),
    /// Send packets through a gateway from one side to the other, and measure what arrives
    Pktgen(Box<PktgenArgs>),
    /// Validate manifests offline
    Check(CheckArgs),
    /// Do something with a running gateway.
    #[command(flatten)]
    Client(ClientCommand),
}

/// The commands that talk to a running gateway.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Create or change the objects in manifests, all or none
    Apply(ApplyArgs),
    /// Create the objects in manifests
    Create(CreateArgs),
    /// Delete objects, by manifest or by name
    Delete(DeleteArgs),
    /// List objects
    Get(GetArgs),
    /// Show an object in detail
    Describe(NamedArgs),
    /// Show which Pods are endpoints of a Service and which are not, each with the reason
    Explain(ExplainArgs),
    /// Show the counters and their meaning
    Stats(StatsArgs),
    /// Print the compiled tables and the flows, as the workers see them
    Dump(DumpArgs),
    /// Show what the gateway would do with a packet or a DNS query: each decision, and its reason
    Trace(TraceArgs),
    /// Print a kubeconfig for kubectl; needs `api.listen` in the configuration
    Kubeconfig(KubeconfigArgs),
    /// Print the address of the live page, with its token; needs `api.listen` in the configuration
    Ui(UiArgs),
}

/// `pollgate run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration (see docs/configuration.md)
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only report how each interface would be polled, what to change on the host, and what would prevent a start
    #[arg(long)]
    pub check: bool,
    /// Kubernetes objects to serve: a file, or a directory of *.yaml, *.yml and *.json; changes of the files are followed
    #[arg(long, value_name = "PATH", conflicts_with = "check")]
    pub manifests: Option<PathBuf>,
    /// If the state file is damaged, rename it to FILE.damaged-N and start without its objects
    #[arg(long, conflicts_with = "check")]
    pub set_aside_damaged: bool,
}

/// `pollgate check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// A manifest: a file, a directory, or - for stdin (repeatable)
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The gateway's configuration, for its address and port ranges [default: the default of each key]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `pollgate replay`
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The configuration; its interfaces also declare what the kernel would report
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Kubernetes objects: a file, or a directory of *.yaml, *.yml and *.json
    #[arg(long, value_name = "PATH")]
    pub manifests: PathBuf,
    /// Apply more objects SECONDS after the first frame, or delete one: SECONDS=-KIND/NAMESPACE/NAME (repeatable)
    #[arg(long, value_name = "SECONDS=PATH", value_parser = Then::parse)]
    pub then: Vec<Then>,
    /// Frames received on an interface: pcap or pcapng (repeatable)
    #[arg(long = "in", value_name = "IF=FILE", required = true, value_parser = Capture::parse)]
    pub inputs: Vec<Capture>,
    /// Where to write the frames sent on an interface, as pcap (repeatable)
    #[arg(long = "out", value_name = "IF=FILE", value_parser = Capture::parse)]
    pub outputs: Vec<Capture>,
    /// Where to write the counters, as JSON
    #[arg(long, value_name = "FILE")]
    pub counters: Option<PathBuf>,
}

/// A capture file and the interface it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capture {
    /// Name of the interface in the configuration.
    pub interface: String,
    /// The file.
    pub path: PathBuf,
}

impl Capture {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((interface, path)) if !interface.is_empty() && !path.is_empty() => {
                Ok(Self { interface: interface.to_owned(), path: path.into() })
            }
            _ => Err("expected INTERFACE=FILE, such as eth0=in.pcap".to_owned()),
        }
    }
}

/// `pollgate demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the lab running afterwards and show how to enter it
    #[arg(long)]
    pub keep: bool,
}

/// Which gateway is meant.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The gateway's API socket
    #[arg(long, value_name = "PATH", env = "POLLGATE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Manifests and what they are read for.
#[derive(Debug, Args)]
pub struct Manifests {
    /// A manifest: a file, a directory, or - for stdin (repeatable)
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that do not specify one [default: default]
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// `server`: validate everything and change nothing
    #[arg(long, value_enum, default_value = "none")]
    pub dry_run: DryRun,
}

/// Whether anything is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Apply the changes.
    None,
    /// Validate, allocate and respond as usual, but change nothing.
    Server,
}

/// `pollgate apply`
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// What to apply.
    #[command(flatten)]
    pub manifests: Manifests,
    /// Where to.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What to create.
    #[command(flatten)]
    pub manifests: Manifests,
    /// Where.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// KIND NAME… or KIND/NAME…
    #[arg(value_name = "KIND NAME", required_unless_present = "files", conflicts_with = "files")]
    pub objects: Vec<String>,
    /// A manifest with the objects to delete: a file, a directory, or - for stdin (repeatable)
    #[arg(short, long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Namespace of the objects, or of those in a manifest that do not specify one [default: default]
    #[arg(short, long, value_name = "NS")]
    pub namespace: Option<String>,
    /// Ignore objects that do not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Where from.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate get`
#[derive(Debug, Args)]
pub struct GetArgs {
    /// KIND [NAME…] or KIND/NAME…; kinds: services, endpoints, endpointslices, pods, nodes, namespaces, events
    #[arg(value_name = "KIND [NAME]", required = true)]
    pub objects: Vec<String>,
    /// Namespace to look in
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub namespace: String,
    /// Look in every namespace
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only objects that match this label selector, such as app=backend,version!=v2
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Output format [default: a table]
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
    /// After the list, print changes as they happen
    #[arg(short, long)]
    pub watch: bool,
    /// Where to look.
    #[command(flatten)]
    pub connection: Connection,
}

/// How `get` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table with more columns.
    Wide,
    /// The objects as YAML.
    Yaml,
    /// The objects as JSON.
    Json,
    /// KIND/NAME, one per line.
    Name,
}

/// A command about objects of a kind, by name.
#[derive(Debug, Args)]
pub struct NamedArgs {
    /// KIND NAME… or KIND/NAME…; describe supports every kind, explain only services
    #[arg(value_name = "KIND NAME", required = true)]
    pub objects: Vec<String>,
    /// Namespace to look in
    #[arg(short, long, value_name = "NS", default_value = "default")]
    pub namespace: String,
    /// Where to look.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Which objects.
    #[command(flatten)]
    pub named: NamedArgs,
    /// Output format [default: text]
    #[arg(short, long, value_enum)]
    pub output: Option<Machine>,
}

/// `pollgate stats`
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Output format [default: text]
    #[arg(short, long, value_enum)]
    pub output: Option<Machine>,
    /// Where from.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate dump`
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// frontends, services, rings, owned, zone or flows [default: all]
    #[arg(value_name = "TABLE", value_parser = dump_table)]
    pub table: Option<Table>,
    /// Only items with this address
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Only items with this port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only items with this transport protocol
    #[arg(long, value_name = "PROTOCOL", value_parser = ["tcp", "udp", "sctp"], ignore_case = true)]
    pub protocol: Option<String>,
    /// Only items of this Service, or of one port of it
    #[arg(long, value_name = "NAMESPACE/NAME[:PORT]")]
    pub service: Option<String>,
    /// Output format [default: text]
    #[arg(short, long, value_enum)]
    pub output: Option<Machine>,
    /// Where from.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate trace`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["from", "dns"]).required(true))]
pub struct TraceArgs {
    /// The packet's source; without a port, one that clients use
    #[arg(long, value_name = "IP[:PORT]", value_parser = super::trace::source, requires = "to")]
    pub from: Option<SocketAddr>,
    /// The packet's destination
    #[arg(long, value_name = "IP:PORT", requires = "from")]
    pub to: Option<SocketAddr>,
    /// Its transport protocol
    #[arg(long, value_enum, ignore_case = true, default_value = "tcp", requires = "from")]
    pub proto: TracedProtocol,
    /// Instead of a packet, a DNS query for this name, as it is (without a search list)
    #[arg(long, value_name = "NAME", conflicts_with_all = ["from", "to", "proto"])]
    pub dns: Option<String>,
    /// The type of the query's records
    #[arg(long = "type", value_name = "T", default_value = "A", conflicts_with = "from")]
    pub rtype: String,
    /// Offline: a configuration, of a gateway or of a replay
    #[arg(short, long, value_name = "FILE", requires = "manifests")]
    pub config: Option<PathBuf>,
    /// Offline: Kubernetes objects, a file or a directory of *.yaml, *.yml and *.json
    #[arg(long, value_name = "PATH", requires = "config")]
    pub manifests: Option<PathBuf>,
    /// Output format [default: text]
    #[arg(short, long, value_enum)]
    pub output: Option<Machine>,
    /// Which gateway to ask.
    #[command(flatten)]
    pub connection: Connection,
}

/// A transport protocol that can be traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TracedProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

fn dump_table(text: &str) -> Result<Table, String> {
    text.parse().map_err(|()| format!("there are {}", Table::ALL.map(Table::name).join(", ")))
}

/// `pollgate kubeconfig`
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// Write it to this file, mode 0600, instead of printing it; only a kubeconfig written by pollgate is overwritten
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Of which gateway.
    #[command(flatten)]
    pub connection: Connection,
}

/// `pollgate ui`
#[derive(Debug, Args)]
pub struct UiArgs {
    /// Of which gateway.
    #[command(flatten)]
    pub connection: Connection,
}
