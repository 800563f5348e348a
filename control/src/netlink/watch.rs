//! The thread of [`HostNetwork`](super::HostNetwork): dumps, reports, requests and timers in one loop.
//!
//! ```text
//!  session: subscribe ─▶ read all ─▶ loop { report │ question │ timer │ owned set changed │ stop }
//!     ▲                                 │ reports were lost: read all
//!     └──── socket lost: a second later ┘
//! ```
//!
//! Reports and requests have a socket each: the kernel reports what a request changed under the request's own number,
//! and on one socket that report would be taken for its answer.

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use pollgate_common::hash::{HashMap, HashSet, new_map};
use pollgate_common::net::{Facts, Mac, NeighbourQuery, Net, PortId};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::proto::sys::AsyncSocket;
use rtnetlink::{Handle, MulticastGroup};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::event::{HostEvent, HostNetworkError, Listener};
use super::facts::{self, Known};
use super::kernel::{self, Request, connect, let_go, read, request_neighbour};
use super::lag::Lag;
use super::owned::OwnedAddresses;
use super::resolver::Questions;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Room for reports while a reading goes on, in bytes.
const REPORT_BUFFER: usize = 4 << 20;
/// Least time between two `Net`s because of neighbours, so that a burst is one.
const BETWEEN_NETS: Duration = Duration::from_millis(10);
/// From the first report to the reading it causes, so that a burst is one.
const BEFORE_READING: Duration = Duration::from_millis(10);
/// Reading takes at most this share of the time: a fifth.
const REST_AFTER_READING: u32 = 4;
/// The least time between two requests for the same neighbour.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(1);
/// How often failed neighbours are checked, and how long one may stay failed.
const SWEEP: Duration = Duration::from_secs(15);
const LET_GO_AFTER: Duration = Duration::from_secs(60);
/// Neighbours kept resolved, at most; beyond, each is requested only once.
const KEPT_AT_MOST: usize = 65536;
const AFTER_LOST_SOCKET: Duration = Duration::from_secs(1);

/// The first `Net`, or why there is none.
pub(super) type First = mpsc::SyncSender<Result<Arc<Net>, HostNetworkError>>;

/// The thread's body.
pub(super) fn run(mut watcher: Watcher, questions: Questions, stopped: oneshot::Receiver<()>, first: &First) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let started = runtime.map_err(|e| HostNetworkError::new("starting the netlink runtime", e));
    match started {
        Ok(runtime) => runtime.block_on(watcher.live(&questions, stopped, first)),
        // If the receiver is gone, no caller waits.
        Err(error) => drop(first.send(Err(error))),
    }
}

/// A neighbour the kernel was asked to keep.
#[derive(Clone, Copy, Debug)]
struct Kept {
    asked: Instant,
    failed_since: Option<Instant>,
}

/// What is known of the network, and what has been reported.
pub(super) struct Watcher {
    ports: HashMap<String, PortId>,
    owned: OwnedAddresses,
    listener: Listener,
    lag: Arc<Lag>,
    /// Links, addresses and routes of the last reading.
    read: Facts,
    /// How often a link of each port was deleted.
    deletions: HashMap<PortId, u32>,
    neighbours: HashMap<NeighbourQuery, Mac>,
    kept: HashMap<NeighbourQuery, Kept>,
    generation: u64,
    published: Facts,
    conflicts: HashSet<IpAddr>,
    /// When to read again and when to publish, if at all.
    read_at: Option<Instant>,
    publish_at: Option<Instant>,
    last_published: Instant,
    rest_until: Instant,
}

/// What a report requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Nothing,
    Neighbours,
    Read,
    /// Reports were lost: the neighbours known so far may be wrong.
    Lost,
}

impl Watcher {
    pub(super) fn new(
        interfaces: Vec<(String, PortId)>,
        owned: OwnedAddresses,
        listener: Listener,
        lag: Arc<Lag>,
    ) -> Watcher {
        let mut ports = new_map();
        ports.extend(interfaces);
        let conflicts = HashSet::with_hasher(new_map::<(), ()>().hasher().clone());
        Watcher {
            ports,
            owned,
            listener,
            lag,
            read: Facts::default(),
            deletions: new_map(),
            neighbours: new_map(),
            kept: new_map(),
            generation: 0,
            published: Facts::default(),
            conflicts,
            read_at: None,
            publish_at: None,
            last_published: Instant::now(),
            rest_until: Instant::now(),
        }
    }

    async fn live(&mut self, questions: &Questions, mut stopped: oneshot::Receiver<()>, first: &First) {
        let mut first = Some(first);
        loop {
            let session = async {
                let session = Session::open(questions)?;
                self.read_all(&session.requests).await?;
                match first.take() {
                    // The caller of `start` waits for it.
                    Some(first) => drop(first.send(Ok(self.first_net()))),
                    None => self.publish(),
                }
                self.follow(session, questions).await
            };
            let ended = tokio::select! {
                _ = &mut stopped => return self.let_all_go().await,
                ended = session => ended,
            };
            let Err(error) = ended;
            match first.take() {
                Some(first) => return drop(first.send(Err(error))),
                None => {
                    self.lag.lost(error.to_string());
                    tracing::warn!(%error, "netlink: reading the host's network again");
                }
            }
            sleep(AFTER_LOST_SOCKET).await;
        }
    }

    /// Follows reports until the socket is lost.
    async fn follow(
        &mut self,
        mut session: Session,
        questions: &Questions,
    ) -> Result<std::convert::Infallible, HostNetworkError> {
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.read_at.unwrap_or(far)) => self.read_anew(&session.requests).await?,
                () = sleep_until(self.publish_at.unwrap_or(far)) => self.publish(),
                () = self.owned.changed() => self.look_for_conflicts(),
                ready = session.wakeup.readable() => {
                    ready.map_err(|e| HostNetworkError::new("waiting for requests", e))?;
                    session.clear_wakeup();
                    for query in questions.take() {
                        self.ask(&session.requests, query).await;
                    }
                }
                report = session.reports.next() => {
                    let report = report.ok_or_else(|| lost("receiving the kernel's notifications"))?;
                    self.note(&report.0, &session.requests).await?;
                    while let Some(Some(more)) = session.reports.next().now_or_never() {
                        self.note(&more.0, &session.requests).await?;
                    }
                }
                _ = sweep.tick() => self.sweep(&session.requests).await,
            }
        }
    }

    async fn note(
        &mut self,
        message: &NetlinkMessage<RouteNetlinkMessage>,
        requests: &Handle,
    ) -> Result<(), HostNetworkError> {
        let now = Instant::now();
        match self.understand(message) {
            Report::Nothing => {}
            Report::Neighbours => {
                let soonest = (self.last_published + BETWEEN_NETS).max(now);
                self.publish_at = self.publish_at.or(Some(soonest));
            }
            Report::Read => {
                self.lag.due();
                let soonest = (now + BEFORE_READING).max(self.rest_until);
                self.read_at = self.read_at.or(Some(soonest));
            }
            Report::Lost => {
                self.lag.lost("notifications of the kernel were lost in a burst");
                tracing::info!("netlink notifications were lost in a burst; reading everything again");
                self.read_all(requests).await?;
                self.publish();
            }
        }
        Ok(())
    }

    pub(super) fn understand(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) -> Report {
        use RouteNetlinkMessage::{
            DelAddress, DelLink, DelNeighbour, DelRoute, NewAddress, NewLink, NewNeighbour, NewRoute,
        };
        let inner = match &message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            NetlinkPayload::Overrun(_) => return Report::Lost,
            _ => return Report::Nothing,
        };
        match inner {
            DelLink(link) => {
                self.note_deletion(link);
                Report::Read
            }
            NewLink(_) | NewAddress(_) | DelAddress(_) | NewRoute(_) | DelRoute(_) => Report::Read,
            NewNeighbour(neighbour) => {
                facts::neighbour(neighbour).map_or(Report::Nothing, |(who, known)| self.learn(who, known))
            }
            DelNeighbour(neighbour) => facts::neighbour(neighbour).map_or(Report::Nothing, |(who, _)| {
                // The entry went with its link, and the mark on it: the next question is the first again.
                self.kept.remove(&who);
                self.learn(who, Known::Nothing)
            }),
            _ => Report::Nothing,
        }
    }

    /// A link that is deleted and created again between two readings may have the index that it had. Only the report shows it.
    fn note_deletion(&mut self, message: &LinkMessage) {
        // One of another family: the link has left a bridge, and stays.
        if message.header.interface_family != AddressFamily::Unspec {
            return;
        }
        let known = self.read.links.iter().find(|link| link.index == message.header.index);
        if let Some(port) = known.and_then(|link| link.port) {
            *self.deletions.entry(port).or_default() += 1;
        }
    }

    /// Takes over links, addresses and routes that were read.
    fn adopt(&mut self, read: Facts) {
        self.read = read;
        for link in &mut self.read.links {
            link.deletions = link.port.and_then(|port| self.deletions.get(&port)).copied().unwrap_or(0);
        }
    }

    /// Stores what is now known of a neighbour.
    fn learn(&mut self, who: NeighbourQuery, known: Known) -> Report {
        if let Some(kept) = self.kept.get_mut(&who) {
            match known {
                Known::Mac(_) => kept.failed_since = None,
                Known::Failed => drop(kept.failed_since.get_or_insert_with(Instant::now)),
                Known::Nothing => {}
            }
        }
        let before = match known {
            Known::Mac(mac) => self.neighbours.insert(who, mac),
            Known::Failed | Known::Nothing => self.neighbours.remove(&who),
        };
        let after = self.neighbours.get(&who).copied();
        if before == after { Report::Nothing } else { Report::Neighbours }
    }

    async fn read_anew(&mut self, requests: &Handle) -> Result<(), HostNetworkError> {
        self.read_at = None;
        let started = Instant::now();
        let read = read(requests, &self.ports).await?;
        self.take(read, started);
        Ok(())
    }

    /// Publishes what has been read since `started`.
    pub(super) fn take(&mut self, read: Facts, started: Instant) {
        self.adopt(read);
        self.rest_until = Instant::now() + started.elapsed() * REST_AFTER_READING;
        self.lag.caught_up();
        self.publish();
    }

    async fn read_all(&mut self, requests: &Handle) -> Result<(), HostNetworkError> {
        let read = read(requests, &self.ports).await?;
        self.adopt(read);
        self.neighbours.clear();
        for (who, known) in kernel::neighbours(requests).await? {
            self.learn(who, known);
        }
        self.read_at = None;
        self.lag.caught_up();
        Ok(())
    }

    fn first_net(&mut self) -> Arc<Net> {
        self.published = self.facts();
        self.generation = 1;
        self.look_for_conflicts();
        Arc::new(Net::new(self.generation, self.published.clone()))
    }

    /// Reports a new `Net` if a next hop may differ.
    fn publish(&mut self) {
        self.publish_at = None;
        self.last_published = Instant::now();
        let facts = self.facts();
        if facts != self.published {
            self.published = facts;
            self.generation += 1;
            (self.listener)(HostEvent::Net(Arc::new(Net::new(self.generation, self.published.clone()))));
        }
        self.look_for_conflicts();
    }

    /// All facts, with the neighbours on links that are polled; no frame of ours goes to others.
    pub(super) fn facts(&self) -> Facts {
        let polled: HashSet<u32> =
            self.read.links.iter().filter(|link| link.port.is_some()).map(|link| link.index).collect();
        let mut neighbours: Vec<_> = self
            .neighbours
            .iter()
            .filter(|(who, _)| polled.contains(&who.link))
            .map(|(who, mac)| (who.link, who.address, *mac))
            .collect();
        neighbours.sort_unstable();
        Facts { neighbours, ..self.read.clone() }
    }

    fn look_for_conflicts(&mut self) {
        let mut found = HashSet::with_hasher(self.conflicts.hasher().clone());
        for (index, own) in &self.read.addresses {
            let address = own.addr();
            if !self.owned.contains(address) {
                continue;
            }
            found.insert(address);
            if !self.conflicts.contains(&address) {
                let link = self.read.links.iter().find(|link| link.index == *index);
                let interface = link.map_or_else(|| format!("number {index}"), |link| link.name.clone());
                (self.listener)(HostEvent::AddressConflict { address, interface });
            }
        }
        self.conflicts = found;
    }

    /// Requests a neighbour from the kernel, unless it was just requested.
    async fn ask(&mut self, requests: &Handle, who: NeighbourQuery) {
        let now = Instant::now();
        if self.kept.get(&who).is_some_and(|kept| now.duration_since(kept.asked) < BETWEEN_QUESTIONS) {
            return;
        }
        let keep = self.kept.len() < KEPT_AT_MOST;
        let mut asked = request_neighbour(requests, who, if keep { Request::Keep } else { Request::ResolveOnce }).await;
        if asked.is_err() && keep {
            // Kernels before 5.16 cannot keep a neighbour resolved.
            asked = request_neighbour(requests, who, Request::ResolveOnce).await;
        }
        if let Err(error) = asked {
            tracing::debug!(%error, address = %who.address, "the kernel did not accept a neighbour request");
            return;
        }
        if keep {
            let failed_since = self.kept.get(&who).and_then(|kept| kept.failed_since);
            self.kept.insert(who, Kept { asked: now, failed_since });
        }
    }

    /// Releases neighbours that have been failing for long.
    async fn sweep(&mut self, requests: &Handle) {
        let hopeless = |kept: &Kept| kept.failed_since.is_some_and(|since| since.elapsed() >= LET_GO_AFTER);
        let gone: Vec<_> = self.kept.iter().filter(|(_, kept)| hopeless(kept)).map(|(who, _)| *who).collect();
        for who in gone {
            self.kept.remove(&who);
            let_go(requests, who).await;
        }
    }

    async fn let_all_go(&mut self) {
        let Ok(requests) = connect() else { return };
        for (who, _) in self.kept.drain() {
            let_go(&requests, who).await;
        }
    }
}

/// The sockets of one session.
struct Session {
    requests: Handle,
    reports:
        futures_util::stream::BoxStream<'static, (NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    wakeup: UnixStream,
}

impl Session {
    fn open(questions: &Questions) -> Result<Session, HostNetworkError> {
        let (mut connection, _, reports) = rtnetlink::new_multicast_connection(&GROUPS)
            .map_err(|e| HostNetworkError::new("subscribing to netlink notifications", e))?;
        // A smaller buffer only means more losses, and each is repaired.
        let _ = connection.socket_mut().socket_mut().set_rx_buf_sz(REPORT_BUFFER);
        tokio::spawn(connection);
        let wakeup: StdUnixStream =
            questions.wakeup().map_err(|e| HostNetworkError::new("opening the resolver's wake-up socket", e))?;
        let wakeup = UnixStream::from_std(wakeup)
            .map_err(|e| HostNetworkError::new("opening the resolver's wake-up socket", e))?;
        Ok(Session { requests: connect()?, reports: reports.boxed(), wakeup })
    }

    fn clear_wakeup(&self) {
        // One byte, or none if the wake-up was spurious; either way the queue is read.
        let _ = self.wakeup.try_read(&mut [0; 8]);
    }
}

fn lost(doing: &'static str) -> HostNetworkError {
    HostNetworkError::new(doing, io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use pollgate_common::net::Link;

    use super::*;

    fn link(index: u32, port: Option<u16>) -> Link {
        let name = format!("eth{index}");
        Link { index, name, port: port.map(PortId), mac: Mac::default(), mtu: 1500, up: true, ups: 1, deletions: 0 }
    }

    fn deleted(index: u32, family: AddressFamily) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut message = LinkMessage::default();
        (message.header.index, message.header.interface_family) = (index, family);
        NetlinkMessage::from(RouteNetlinkMessage::DelLink(message))
    }

    #[test]
    fn a_link_that_was_deleted_is_another_one_also_under_the_same_index() {
        let owned = OwnedAddresses::new([]);
        let mut watcher = Watcher::new(Vec::new(), owned, Box::new(|_| {}), Arc::default());
        let facts = || Facts { links: vec![link(4, Some(0)), link(5, Some(1)), link(6, None)], ..Facts::default() };
        watcher.take(facts(), Instant::now());
        let first = watcher.facts();
        for (index, family, expected) in [
            (4, AddressFamily::Unspec, [1, 0, 0]),
            (4, AddressFamily::Bridge, [1, 0, 0]),
            (6, AddressFamily::Unspec, [1, 0, 0]),
            (9, AddressFamily::Unspec, [1, 0, 0]),
            (5, AddressFamily::Unspec, [1, 1, 0]),
            (4, AddressFamily::Unspec, [2, 1, 0]),
        ] {
            assert_eq!(watcher.understand(&deleted(index, family)), Report::Read, "{index}");
            watcher.take(facts(), Instant::now());
            let deletions: Vec<u32> = watcher.facts().links.iter().map(|link| link.deletions).collect();
            assert_eq!(deletions, expected, "{index}");
            assert_ne!(watcher.facts(), first);
        }
    }
}
