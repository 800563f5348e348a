//! AF_XDP ports and their steering program in the real kernel, over veth pairs.

mod bpf;
mod forwarding;
mod model;
mod port;
mod steering;
mod support;
