//! The kernel's network: followed for the compiler, its changes logged.

use std::cell::RefCell;
use std::sync::Arc;

use crossbeam::channel;
use pollgate_common::net::Net;
use pollgate_control::netlink::{HostEvent, HostNetwork, OwnedAddresses};
use pollgate_control::runtime::Command;
use tracing::{error, info, warn};

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
        let links = LinkLog::new(config);
        Box::new(move |event: HostEvent| match event {
            HostEvent::Net(net) => {
                links.log(&net);
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

/// Logs when a polled interface disappears, appears, or changes its state.
struct LinkLog {
    /// Name and last state; `None`: not there.
    known: RefCell<Vec<(String, Option<bool>)>>,
}

impl LinkLog {
    fn new(config: &Config) -> LinkLog {
        let known = config.interfaces.iter().map(|interface| (interface.name.clone(), Some(true))).collect();
        LinkLog { known: RefCell::new(known) }
    }

    fn log(&self, net: &Net) {
        for (at, (name, known)) in self.known.borrow_mut().iter_mut().enumerate() {
            let now = net.port_link(port_id(at)).map(|link| link.up);
            if *known == now {
                continue;
            }
            match now {
                None => error!(
                    "{name} no longer exists: no packets are received or sent on it; restart pollgate once \
                                it is back"
                ),
                Some(false) => warn!("{name} is down"),
                Some(true) => info!("{name} is up"),
            }
            *known = now;
        }
    }
}
