//! The pollgate binary as a library: command line, configuration, and the wiring of the parts.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod demo;
mod failure;
pub mod gateway;
pub mod host;
pub mod lab;
mod output;
pub mod pktgen;
pub mod ports;
pub mod preflight;
pub mod privileges;
pub mod replay;
pub mod terminal;
