//! AF_XDP ports and their steering program over real veth pairs.

mod forwarding;
mod model;
mod port;
mod steering;
mod support;
