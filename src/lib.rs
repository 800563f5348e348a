//! The pollgate binary as a library: command line, configuration, and the wiring of the parts.

pub mod assembly;
pub mod cli;
pub mod config;
pub mod demo;
pub mod fanout;
pub mod gateway;
pub mod host;
pub mod lab;
pub mod pktgen;
pub mod preflight;
pub mod replay;
