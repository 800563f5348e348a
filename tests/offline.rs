//! Tests that need nothing but memory, files and sockets of the file system: they run everywhere.

mod commands;
mod docs;
mod fuzz;
mod monitoring;
mod packets;
mod replay;
mod trace;
