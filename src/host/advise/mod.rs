//! What the host should change to be a good gateway: each with what is, what should be, the command, and why.
//!
//! Pure functions of the facts, so that a table can test them. Nothing here keeps a gateway from starting; what does is a
//! [`HostFault`](super::HostFault). Advice is given only where its command can work: never for a switch that the driver
//! does not have.

mod advice;
mod interface;
mod machine;
mod routes;

pub use advice::Advice;
pub use interface::for_interface;
pub use machine::for_machine;
pub use routes::for_unrouted;

#[cfg(test)]
mod tests {
    use super::super::sample::{machine, nic};
    use super::super::{Copying, Mode};
    use super::*;

    #[test]
    fn nothing_is_said_of_a_host_that_is_as_it_should_be() {
        for mode in [Mode::Xdp(Copying::Zero), Mode::Packet, Mode::Uring] {
            assert_eq!(for_interface(&nic(), mode, &[3, 2], &machine()), [], "{mode}");
        }
        assert_eq!(for_machine(&machine(), &[3, 2]), []);
    }
}
