//! The command line: what can be typed, and which function does it.
//!
//! ```text
//! run, replay, demo                    ──▶ the gateway itself, in this process
//! pktgen                               ──▶ a load generator, in this process
//! check                                ──▶ check.rs, offline
//! apply, create, delete                ──▶ apply.rs ─┐
//! get, describe, explain               ──▶ read.rs  ─┼─▶ client.rs ══ Unix socket ══ a running gateway
//! stats                                ──▶ stats.rs ─┤
//! kubeconfig                      ──▶ kubeconfig.rs ─┘
//! ```
//!
//! Exit codes: 0 it was done, 1 it was refused or failed, 2 it was typed wrongly. Results go to stdout, faults to
//! stderr. Words, options and output are kubectl's wherever kubectl has the command, for that is what fingers know.

pub mod apply;
pub mod check;
pub mod client;
pub mod kubeconfig;
mod names;
pub mod read;
pub mod stats;
mod watch;

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::config::{ConfigError, DEFAULT_SOCKET};
use crate::pktgen::PktgenArgs;

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
    /// Print a kubeconfig for kubectl; needs `api.listen` in the configuration
    Kubeconfig(KubeconfigArgs),
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

/// Output for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// JSON.
    Json,
}

impl ClientCommand {
    /// Does it; results go to `out`.
    ///
    /// # Errors
    /// What was refused or failed, or was typed in a way that only its meaning shows to be wrong.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        match self {
            Self::Apply(args) => apply::apply(&args, out),
            Self::Create(args) => apply::create(&args, out),
            Self::Delete(args) => apply::delete(&args, out),
            Self::Get(args) => read::get(&args, out),
            Self::Describe(args) => read::describe(&args, out),
            Self::Explain(args) => read::explain(&args, out),
            Self::Stats(args) => stats::stats(&args, out),
            Self::Kubeconfig(args) => kubeconfig::kubeconfig(&args, out),
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub enum Failure {
    /// It was typed wrongly: exit code 2.
    Usage(String),
    /// It was refused or failed; each line says what, where and what to do. Exit code 1.
    Refused(String),
    /// The gateway could not be asked, and will not answer the next question either. Exit code 1.
    Unreachable(String),
    /// The results could not be written to stdout.
    Output(io::Error),
}

impl Failure {
    /// Refused or failed, as `text` says.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }

    /// Typed wrongly, as `text` says.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    /// What failed, with what made it fail: `error: cannot open eth1: no such device`.
    pub fn caused(error: &dyn std::error::Error) -> Self {
        let mut text = format!("error: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let told = error.to_string();
            // Some errors already repeat their cause in their own text.
            if !text.ends_with(&told) {
                text.push_str(": ");
                text.push_str(&told);
            }
            cause = error.source();
        }
        Self::Refused(text)
    }

    /// Tells it on stderr, where there is something to tell, and says the exit code of the process.
    pub fn report(&self) -> u8 {
        match self {
            // The reader of a pipe has seen enough (`| head`); nothing failed.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
            Self::Usage(text) => {
                let error = Cli::command().error(clap::error::ErrorKind::InvalidValue, text);
                // Nothing can be told where stderr is closed.
                drop(error.print());
                return 2;
            }
            Self::Refused(_) | Self::Unreachable(_) | Self::Output(_) => {}
        }
        // As above.
        drop(writeln!(io::stderr(), "{self}"));
        1
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Refused(text) => f.write_str(text),
            Self::Unreachable(text) => write!(f, "error: {text}"),
            Self::Output(error) => write!(f, "error: cannot write the result: {error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_typed_wrongly_is_told_with_exit_code_2() {
        for line in [
            "pollgate",
            "pollgate fly",
            "pollgate run",
            "pollgate run --config",
            "pollgate run --config a --config b",
            "pollgate run --check",
            "pollgate run --config a --check --manifests m",
            "pollgate check",
            "pollgate check -f a --socket s",
            "pollgate replay --config a --manifests m",
            "pollgate replay --config a --manifests m --in x.pcap",
            "pollgate replay --config a --manifests m --in =x.pcap",
            "pollgate apply",
            "pollgate apply -f a --dry-run=maybe",
            "pollgate delete",
            "pollgate delete svc web -f a.yaml",
            "pollgate get",
            "pollgate get svc -A -n x",
            "pollgate get svc -o html",
            "pollgate describe",
            "pollgate stats extra",
            "pollgate kubeconfig extra",
            "pollgate demo --kept",
        ] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for line in ["pollgate --help", "pollgate get --help", "pollgate --version"] {
            assert_eq!(parse(line).expect_err(line).exit_code(), 0, "{line}");
        }
    }

    #[test]
    fn a_replay_takes_many_captures() {
        let line = "pollgate replay --config c --manifests m --in a=1.pcap --in b=x=2.pcap --out a=o.pcap";
        let Command::Replay(args) = parse(line).unwrap() else { panic!("replay") };
        let capture = |interface: &str, path: &str| Capture { interface: interface.into(), path: path.into() };
        assert_eq!(args.inputs, [capture("a", "1.pcap"), capture("b", "x=2.pcap")]);
        assert_eq!(args.outputs, [capture("a", "o.pcap")]);
        assert_eq!(args.counters, None);
    }

    #[test]
    fn the_socket_has_a_default() {
        let Command::Client(ClientCommand::Stats(args)) = parse("pollgate stats --socket /tmp/x").unwrap() else {
            panic!("stats");
        };
        assert_eq!(args.connection.socket, PathBuf::from("/tmp/x"));
        let default = Cli::command();
        let stats = default.find_subcommand("stats").unwrap();
        let socket = stats.get_arguments().find(|arg| arg.get_id() == "socket").unwrap();
        assert_eq!(socket.get_default_values(), [DEFAULT_SOCKET]);
        assert_eq!(socket.get_env(), Some("POLLGATE_SOCKET".as_ref()));
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open eth1")]
        struct Outer(#[source] io::Error);
        let missing = io::Error::other("no such device");
        assert_eq!(Failure::caused(&Outer(missing)).to_string(), "error: cannot open eth1: no such device");

        #[derive(Debug, thiserror::Error)]
        #[error("cannot open eth1: {0}")]
        struct Repeating(#[source] io::Error);
        let missing = io::Error::other("no such device");
        assert_eq!(Failure::caused(&Repeating(missing)).to_string(), "error: cannot open eth1: no such device");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).report(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).report(), 1);
    }
}
