//! The compiled tables and the flows over the API; the worker is played by a thread.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::Scope;

use pollgate_common::counters::Counters;
use pollgate_common::flow::Protocol;
use pollgate_common::inspect::{FlowRecord, Mailbox, Request};
use pollgate_common::tables::ServiceId;

use super::*;
use crate::compile::Compiler;
use crate::observe::dump::tests::options;

const DUMP: &str = "/apis/pollgate.io/v1alpha1/dump";

/// A gateway with empty tables and so many workers.
fn gateway(workers: usize) -> (Gateway, Vec<Arc<Mailbox>>) {
    let mailboxes: Vec<Arc<Mailbox>> = (0..workers).map(|_| Arc::default()).collect();
    let counters = Arc::new(Counters::new(workers));
    let tables = Compiler::new(options(), Arc::clone(&counters)).source();
    let dump = DumpSource { tables, mailboxes: mailboxes.clone().into(), counters, max_flows: 1024 };
    let cluster = Cluster::new(ClusterSettings::default());
    (Gateway::dumping(faulty::store().0, cluster, Limits::default(), None, Some(dump)), mailboxes)
}

fn flow(port: u16) -> FlowRecord {
    let at = |text: &str| text.parse().expect("an address");
    FlowRecord {
        protocol: Some(if port.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp }),
        client: SocketAddr::new([10, 0, 0, 1].into(), port),
        frontend: at("10.96.0.1:80"),
        source: SocketAddr::new([10, 0, 0, 1].into(), port),
        backend: at("10.244.0.1:8080"),
        service: ServiceId::default(),
        state: "established",
        client_idle: Duration::ZERO,
        backend_idle: Duration::ZERO,
    }
}

/// A worker with ten flows, whose client ports begin at `first`; it looks at one a poll.
fn work<'scope>(scope: &'scope Scope<'scope, '_>, mailbox: &'scope Mailbox, first: u16, stop: &'scope AtomicBool) {
    scope.spawn(move || {
        let mut current = None;
        while !stop.load(Relaxed) {
            let Some(mut letter) = current.take().or_else(|| mailbox.take()) else {
                std::thread::yield_now();
                continue;
            };
            let Request::Flows(request) = &mut letter.request else { panic!("a dump asks for flows") };
            let next = request.next();
            request.offer(flow(first + u16::try_from(next).expect("small")));
            request.advance(next + 1, next == 9);
            let is_done = request.is_full() || request.rest().is_none() || mailbox.is_hurried();
            current = if is_done { mailbox.give(letter).err() } else { Some(letter) };
        }
    });
}

/// What `test` sees of two workers with ten flows each.
fn with_flows(test: impl FnOnce(&Gateway)) {
    let (gateway, mailboxes) = gateway(2);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        work(scope, &mailboxes[0], 1000, &stop);
        work(scope, &mailboxes[1], 2000, &stop);
        // Ended by a failure, too.
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&gateway)));
        stop.store(true, Relaxed);
        tested.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn ports(answer: &Answer) -> Vec<String> {
    let items = answer.at("/items");
    let client = |item: &Value| item["client"].as_str().unwrap_or_default().to_owned();
    items.as_array().expect("items").iter().map(client).collect()
}

#[test]
fn flows_come_in_pages_over_all_workers() {
    with_flows(|gateway| {
        let whole = gateway.get(&format!("{DUMP}/flows")).expect(200);
        assert_eq!((whole.at("/table"), whole.at("/generation")), (json!("flows"), json!(1)));
        assert_eq!((ports(&whole).len(), whole.at("/continue")), (20, Value::Null));
        assert_eq!(whole.at("/items/0/worker"), 0);
        assert_eq!((whole.at("/items/19/worker"), whole.at("/items/19/client")), (json!(1), json!("10.0.0.1:2009")));
        for limit in [1, 3, 10, 19] {
            let (mut all, mut path) = (Vec::new(), format!("{DUMP}/flows?limit={limit}"));
            loop {
                let page = gateway.get(&path).expect(200);
                assert!(ports(&page).len() <= limit);
                all.extend(ports(&page));
                let Value::String(token) = page.at("/continue") else { break };
                path = format!("{DUMP}/flows?limit={limit}&continue={}", token.replace('"', "%22").replace('[', "%5B"));
            }
            assert_eq!(all, ports(&whole), "by {limit}");
        }
    });
}

#[test]
fn flows_are_filtered_by_their_worker() {
    with_flows(|gateway| {
        let found = |filter: &str| ports(&gateway.get(&format!("{DUMP}/flows?{filter}")).expect(200)).len();
        assert_eq!(found("protocol=udp"), 10);
        assert_eq!((found("port=1003"), found("port=1003&protocol=TCP")), (1, 0));
        assert_eq!((found("address=10.244.0.1"), found("address=10.244.0.2")), (20, 0));
        assert_eq!(found("service=default/none"), 0);
    });
}

#[test]
fn a_worker_that_does_not_answer_is_told_and_keeps_nobody_waiting() {
    let (gateway, mailboxes) = gateway(1);
    let refused = gateway.get(&format!("{DUMP}/flows")).expect(500);
    let message = refused.at("/message");
    assert_eq!(message, "Internal error occurred: worker 0 did not answer within 3 s; is it running?");
    // Its request is still there; when the worker is back, the answer to it is not taken for that to the next one.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        work(scope, &mailboxes[0], 1000, &stop);
        let found = gateway.get(&format!("{DUMP}/flows?port=1004"));
        stop.store(true, Relaxed);
        assert_eq!(ports(&found.expect(200)), ["10.0.0.1:1004"]);
    });
}

#[test]
fn tables_are_dumped_and_what_is_asked_wrongly_is_refused() {
    let (gateway, _) = gateway(1);
    for table in ["frontends", "services", "rings", "owned", "zone"] {
        let page = gateway.get(&format!("{DUMP}/{table}")).expect(200);
        assert_eq!((page.at("/table"), page.at("/continue")), (json!(table), Value::Null));
        assert!(page.at("/items").is_array(), "{table}");
    }
    gateway.get(&format!("{DUMP}/nothing")).expect(404);
    gateway.post(&format!("{DUMP}/zone"), &json!({})).expect(405);
    for (query, message) in [
        ("limit=0", "limit: Invalid value: \"0\": expected a number"),
        ("port=70000", "port: Invalid value: \"70000\": expected a port"),
        ("address=a", "address: Invalid value: \"a\": expected an IP address"),
        ("protocol=icmp", "protocol: Invalid value: \"icmp\": expected TCP, UDP or SCTP"),
        ("continue=7", "continue: the token is not from a page of this table"),
        ("adress=x", "adress: no such parameter; there are limit, continue, address, port, protocol, service"),
    ] {
        assert_eq!(gateway.get(&format!("{DUMP}/zone?{query}")).expect(400).at("/message"), message);
    }
    // The control plane alone has no tables.
    Gateway::new().get(&format!("{DUMP}/zone")).expect(404);
}

#[test]
fn statistics_count_the_flows_of_all_workers() {
    with_flows(|gateway| {
        let stats = gateway.get("/apis/pollgate.io/v1alpha1/stats").expect(200);
        // The tables are empty: the flows are of Services that are gone.
        assert_eq!((stats.at("/flows/departed"), stats.at("/counters/rx")), (20.into(), 7.into()));
    });
}

#[test]
fn statistics_do_without_live_flows_if_a_worker_does_not_answer() {
    let (gateway, _mailboxes) = gateway(1);
    let stats = gateway.get("/apis/pollgate.io/v1alpha1/stats").expect(200);
    assert_eq!((stats.at("/flows").get("departed").cloned(), stats.at("/counters/rx")), (None, 7.into()));
}
