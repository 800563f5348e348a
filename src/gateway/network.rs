//! The kernel's network: mirrored for the compiler, and its news in the log.

use std::cell::RefCell;
use std::sync::Arc;

use crossbeam::channel;
use pollgate_common::counters::Counters;
use pollgate_common::net::Net;
use pollgate_common::settings::DataplaneSettings;
use pollgate_control::compile::Compiler;
use pollgate_control::compile::sink::TableSink;
use pollgate_control::netlink::{HostEvent, HostNetwork, OwnedAddresses};
use pollgate_control::runtime::Command;
use tracing::{error, info, warn};

use super::error::GatewayError;
use crate::assembly;
use crate::config::Config;
use crate::ports::port_id;

pub(super) fn mirror_network(
    config: &Config,
    settings: &Arc<DataplaneSettings>,
    counters: &Arc<Counters>,
    commands: &channel::Sender<Command>,
) -> Result<(HostNetwork, Compiler, OwnedAddresses), GatewayError> {
    let mut compiler = Compiler::new(assembly::compile_options(config, settings), Arc::clone(counters));
    let owned = OwnedAddresses::new(config.addresses.iter().chain(&config.dns.addresses).copied());
    let names = config.interfaces.iter().enumerate();
    let interfaces = names.map(|(at, interface)| (interface.name.clone(), port_id(at))).collect();
    let news = {
        let commands = commands.clone();
        let links = LinkLog::new(config);
        Box::new(move |news: HostEvent| match news {
            HostEvent::Net(net) => {
                links.tell(&net);
                // The control thread may have ended already: then nobody needs it.
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
    let (mirror, net) = HostNetwork::start(interfaces, owned.clone(), news)?;
    compiler.network(net);
    Ok((mirror, compiler, owned))
}

/// Says in the log when a polled interface goes, comes, or changes its state.
struct LinkLog {
    /// Name and last state; `None`: not there.
    known: RefCell<Vec<(String, Option<bool>)>>,
}

impl LinkLog {
    fn new(config: &Config) -> LinkLog {
        let known = config.interfaces.iter().map(|interface| (interface.name.clone(), Some(true))).collect();
        LinkLog { known: RefCell::new(known) }
    }

    fn tell(&self, net: &Net) {
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
