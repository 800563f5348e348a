//! The pollgate binary as a library: command line, configuration, and the wiring of the parts.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod host;
pub mod lab;
pub mod pktgen;
pub mod ports;
pub mod preflight;
pub mod replay;
