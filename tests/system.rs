//! Tests that need more than memory and files: network namespaces, privileges, other programs, a process of their own.
//!
//! Each module lists its tests with their needs (`tests!`). What a machine cannot run is reported as ignored, with the reason,
//! and again at the end with how to get what is missing; see [`shared::harness`].

mod browser;
mod clients;
mod crash;
mod demo;
mod host;
mod lab;
mod live;
mod netlink_mirror;
mod preflight;
mod shared;
mod socket_ports;
mod watchers;
mod xdp;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The other half of a test, which kills it.
    if let Some(directory) = crash::child_directory() {
        crash::child(&directory);
        return ExitCode::SUCCESS;
    }
    let own = [
        browser::TESTS,
        crash::TESTS,
        demo::TESTS,
        host::TESTS,
        lab::TESTS,
        netlink_mirror::TESTS,
        preflight::TESTS,
        watchers::TESTS,
    ];
    let tests = [own.concat(), clients::tests(), live::tests(), socket_ports::tests(), xdp::tests()];
    shared::harness::main(tests.concat())
}
