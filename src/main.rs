//! The `pollgate` binary: what was typed, to the function that does it.

#![forbid(unsafe_code)]

use std::io;
use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use pollgate::cli::{Cli, Command, Failure, check};
use pollgate::config::{Config, Purpose};
use pollgate::terminal::Plain;
use pollgate::{demo, gateway, pktgen, preflight, replay};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report().into(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => {
            let config = Config::load(&args.config, Purpose::Run)?;
            if args.check {
                return preflight::run(&config, &mut Plain::new(io::stdout().lock()));
            }
            let start = gateway::Start {
                config: Some(args.config),
                manifests: args.manifests,
                set_aside_damaged: args.set_aside_damaged,
            };
            gateway::run(config, start).map_err(|error| Failure::caused(&error))
        }
        Command::Replay(args) => replay::run(&args).map_err(|error| Failure::caused(&error)),
        Command::Demo(args) => demo::run(args.keep).map_err(|error| Failure::caused(&error)),
        Command::Check(args) => check::check(&args, &mut Plain::new(io::stdout().lock())),
        Command::Pktgen(args) => pktgen::run(&args, &mut io::stdout().lock()),
        Command::Client(command) => command.run(&mut io::stdout().lock()),
    }
}
