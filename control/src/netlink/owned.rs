//! The addresses pollgate owns: to report when the kernel has one of them too.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pollgate_common::hash::{HashSet, new_map};
use tokio::sync::Notify;

/// A set that the control thread changes and the netlink thread reads; clones are the same set.
#[derive(Clone, Debug)]
pub struct OwnedAddresses {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    addresses: Mutex<HashSet<IpAddr>>,
    changed: Notify,
}

impl OwnedAddresses {
    /// A set of these addresses.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> OwnedAddresses {
        let mut set = HashSet::with_hasher(new_map::<(), ()>().hasher().clone());
        set.extend(addresses);
        OwnedAddresses { shared: Arc::new(Shared { addresses: Mutex::new(set), changed: Notify::new() }) }
    }

    /// Takes addresses out and puts others in.
    pub fn change(&self, gone: impl IntoIterator<Item = IpAddr>, new: impl IntoIterator<Item = IpAddr>) {
        let mut addresses = self.lock();
        for address in gone {
            addresses.remove(&address);
        }
        addresses.extend(new);
        drop(addresses);
        self.shared.changed.notify_one();
    }

    /// Whether it is in the set.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.lock().contains(&address)
    }

    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        // A set is whole between any two of its operations.
        self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_set() {
        let [a, b]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let owned = OwnedAddresses::new([a]);
        owned.clone().change([a], [b]);
        assert!(!owned.contains(a) && owned.contains(b));
    }
}
