//! The command line: the commands, and the function for each.
//!
//! ```text
//! run, replay, demo                    ──▶ the gateway itself, in this process
//! pktgen                               ──▶ a load generator, in this process
//! check                                ──▶ check.rs, offline
//! apply, create, delete                ──▶ apply.rs ─┐
//! get, describe, explain               ──▶ read.rs  ─┼─▶ client.rs ══ Unix socket ══ a running gateway
//! stats                                ──▶ stats.rs ─┤
//! dump                                 ──▶ dump.rs  ─┤
//! trace                                ──▶ trace.rs ─┤ (or offline)
//! kubeconfig                      ──▶ kubeconfig.rs ─┤
//! ui                                   ──▶ ui.rs    ─┘
//! ```
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong command line. Results go to stdout, errors to
//! stderr. Commands, options and output are those of kubectl wherever kubectl has the command.

pub mod apply;
mod args;
pub mod check;
pub mod client;
pub mod dump;
pub mod kubeconfig;
mod names;
pub mod read;
pub mod stats;
pub mod trace;
pub mod ui;
mod watch;

use std::io::{self, Write};

use clap::CommandFactory;

use crate::terminal::{self, Plain};

pub use crate::failure::Failure;
pub use crate::output::Machine;
pub use args::{
    ApplyArgs, Capture, CheckArgs, Cli, ClientCommand, Command, Connection, CreateArgs, DeleteArgs, DemoArgs, DryRun,
    DumpArgs, ExplainArgs, Format, GetArgs, KubeconfigArgs, Manifests, NamedArgs, ReplayArgs, RunArgs, StatsArgs,
    TraceArgs, TracedProtocol, UiArgs,
};

impl ClientCommand {
    /// Runs the command; results go to `out`.
    ///
    /// # Errors
    /// What was refused or failed, or an argument that is only wrong in its meaning.
    pub fn run(self, out: &mut dyn Write) -> Result<(), Failure> {
        let out: &mut dyn Write = &mut Plain::new(out);
        match self {
            Self::Apply(args) => apply::apply(&args, out),
            Self::Create(args) => apply::create(&args, out),
            Self::Delete(args) => apply::delete(&args, out),
            Self::Get(args) => read::get(&args, out),
            Self::Describe(args) => read::describe(&args, out),
            Self::Explain(args) => read::explain(&args, out),
            Self::Stats(args) => stats::stats(&args, out),
            Self::Dump(args) => dump::dump(&args, out),
            Self::Trace(args) => trace::trace(&args, out),
            Self::Kubeconfig(args) => kubeconfig::kubeconfig(&args, out),
            Self::Ui(args) => ui::ui(&args, out),
        }
    }
}

impl Failure {
    /// Prints it on stderr, if it is an error, and returns the exit code of the process.
    pub fn report(&self) -> u8 {
        match self {
            // The reader of a pipe has seen enough (`| head`); nothing failed.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
            Self::Usage(text) => {
                let error = Cli::command().error(clap::error::ErrorKind::InvalidValue, text);
                // Nothing can be done if stderr is closed.
                drop(error.print());
                return 2;
            }
            Self::Refused(_) | Self::Unreachable(_) | Self::Output(_) => {}
        }
        // As above.
        drop(writeln!(terminal::stderr(), "{self}"));
        1
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::Parser;

    use super::*;
    use crate::config::DEFAULT_SOCKET;

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
            "pollgate dump tables",
            "pollgate dump --port 70000",
            "pollgate dump --protocol icmp",
            "pollgate trace",
            "pollgate trace --from 10.0.0.1",
            "pollgate trace --to 10.0.0.1:80",
            "pollgate trace --from 10.0.0.1 --to 10.0.0.2",
            "pollgate trace --from 10.0.0.1 --to 10.0.0.2:80 --proto icmp",
            "pollgate trace --from 10.0.0.1 --to 10.0.0.2:80 --dns web",
            "pollgate trace --dns web --proto udp",
            "pollgate trace --dns web --config a",
            "pollgate trace --dns web --manifests a",
            "pollgate kubeconfig extra",
            "pollgate ui extra",
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
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).report(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).report(), 1);
    }
}
