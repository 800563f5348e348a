//! The kernel's network: followed for the compiler.

use std::sync::Arc;

use crossbeam::channel;
use pollgate_common::net::Net;
use pollgate_control::netlink::{HostEvent, HostNetwork, OwnedAddresses};
use pollgate_control::runtime::Command;
use tracing::warn;

use super::error::GatewayError;
use crate::config::Config;
use crate::ports::port_id;

/// Starts to follow the network. The first state is returned; later ones go to `commands`.
pub(super) fn follow_network(
    config: &Config,
    owned: &OwnedAddresses,
    commands: &channel::Sender<Command>,
) -> Result<(HostNetwork, Arc<Net>), GatewayError> {
    let names = config.interfaces.iter().enumerate();
    let interfaces = names.map(|(at, interface)| (interface.name.clone(), port_id(at))).collect();
    let listener = {
        let commands = commands.clone();
        Box::new(move |event: HostEvent| match event {
            HostEvent::Net(net) => {
                // The control thread may have ended already: then it is not needed.
                drop(commands.send(Command::Network(net)));
            }
            HostEvent::AddressConflict { address, interface } => {
                warn!(
                    "{address} belongs to pollgate, but the kernel has it on {interface} too: remove it there (ip \
                     address del)"
                );
            }
        })
    };
    Ok(HostNetwork::start(interfaces, owned.clone(), listener)?)
}
