//! Many connections, and who answered them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::names::SERVER;
use super::objects::load_balancer;
use super::page::{Checked, Page, row, same, table};
use super::stage::{BACKENDS, FRONTEND, OUTSIDE, PATIENCE, PodServers, Stage, socket_address};
use crate::lab::traffic::{ask_dns_v6, ask_http, ask_tcp, ask_udp};

/// Connections of one visit. With 200, a fair choice of two gives one of them less than 30 % once in 10⁸ runs.
pub(super) const VISITS: usize = 200;
/// The least share of a visit that each of two backends must get, in percent.
const LEAST: usize = 30;
/// Characters of a bar that stands for all of a visit.
const BAR: usize = 40;

/// Pod to Service: translated, balanced, and the Pod sees who came.
pub(super) fn cluster_ip(stage: &Stage, page: &mut Page) -> Checked {
    let address = stage.cluster_ip("backend-service")?;
    page.say(&format!(
        "frontend-app connects to {address} {VISITS} times. No host has that address: a worker picks an endpoint by a \
         hash of the connection, rewrites the destination, and in replies the source. Connections per Pod:"
    ));
    let visit = Visit::make(|_| ask_tcp(stage.host(FRONTEND), address, PATIENCE));
    visit.tell(stage, page, &BACKENDS);
    let client = stage.network.host(FRONTEND).address;
    let seen = stage.sources(|pod| &pod.tcp);
    page.check(
        &format!("the Pods saw frontend-app's own address, {client}, as the source"),
        same(&seen, &BTreeSet::from([client])),
    );
    Ok(())
}

/// From outside, by the gateway's own address and by the balancer's.
pub(super) fn from_outside(stage: &Stage, page: &mut Page) -> Checked {
    let gateway = IpAddr::from([192, 168, 50, 10]);
    let node_port = &stage.get("services/nodeport-service")?["spec"]["ports"][0]["nodePort"];
    let node_port = socket_address(&gateway.to_string().into(), node_port)?;
    let balancer = load_balancer(stage)?;
    page.say(&format!(
        "outside-client is not a Pod and has no route to the Pods. It can reach nodeport-service (port 8081, \
         targetPort 80) at every gateway address under one port: http://{node_port}/, {VISITS} times:"
    ));
    ask_from_outside(node_port, stage, page);
    page.say(&format!("loadbalancer-service has its own address from a pool: http://{balancer}/, {VISITS} times:"));
    ask_from_outside(balancer, stage, page);
    let seen = stage.sources(|pod| &pod.http);
    page.check(
        &format!("the Pods saw the gateway's address, {gateway}, as the source, so that replies return through it"),
        same(&seen, &BTreeSet::from([gateway])),
    );
    Ok(())
}

fn ask_from_outside(address: SocketAddr, stage: &Stage, page: &mut Page) {
    let visit = Visit::make(|_| ask_http(stage.host(OUTSIDE), address, "/", PATIENCE));
    visit.tell(stage, page, &BACKENDS);
}

/// Datagrams, each from a port of its own.
pub(super) fn udp(stage: &Stage, page: &mut Page) -> Checked {
    let address = stage.cluster_ip("echo-service")?;
    page.say(&format!(
        "frontend-app sends {VISITS} datagrams to {address}, each from another port, and waits for each echo:"
    ));
    let visit = Visit::make(|at| ask_udp(stage.host(FRONTEND), address, &format!("datagram {at}"), PATIENCE));
    visit.tell(stage, page, &BACKENDS);
    let (client, seen) = (stage.network.host(FRONTEND).address, stage.sources(|pod| &pod.udp));
    page.check("the Pods saw frontend-app's own address here too", same(&seen, &BTreeSet::from([client])));
    Ok(())
}

/// One Service with a ClusterIP of each family.
pub(super) fn dual_stack(stage: &Stage, page: &mut Page) -> Checked {
    let spec = &stage.get("services/dual-service")?["spec"];
    let address = |at: usize| socket_address(&spec["clusterIPs"][at], &spec["ports"][0]["port"]);
    let addresses = [address(0)?, address(1)?];
    let (server, name) = (SERVER.into(), "dual-service.default.svc.cluster.local");
    let answer = ask_dns_v6(stage.host(FRONTEND), server, name, PATIENCE);
    let answer = answer.map_err(|error| format!("querying {name}: {error}"))?;
    page.say(&format!(
        "dual-service has ipFamilyPolicy RequireDualStack. Its Pods have an address of each family, and it has a \
         ClusterIP of each: {} and {}. Connections from frontend-app per Pod, over each:",
        addresses[0].ip(),
        addresses[1].ip()
    ));
    page.check(
        "its name has an AAAA record with the IPv6 ClusterIP",
        same(&answer.addresses, &vec![addresses[1].ip()]),
    );
    for address in addresses {
        let visit = Visit::make(|_| ask_tcp(stage.host(FRONTEND), address, PATIENCE));
        visit.tell(stage, page, &BACKENDS);
    }
    let client = stage.network.host(FRONTEND).address_v6.ok_or("frontend-app has no IPv6 address")?;
    let seen = stage.sources(|pod| &pod.tcp_v6);
    page.check(
        &format!("over IPv6 too, the Pods saw frontend-app's own address, {client}"),
        same(&seen, &BTreeSet::from([client])),
    );
    Ok(())
}

/// Who answered how often.
pub(super) struct Visit {
    answers: BTreeMap<String, usize>,
    failed: Vec<String>,
    seconds: f64,
}

impl Visit {
    /// Sends [`VISITS`] requests, one after the other.
    pub(super) fn make(ask: impl Fn(usize) -> io::Result<String>) -> Visit {
        let started = Instant::now();
        let mut visit = Visit { answers: BTreeMap::new(), failed: Vec::new(), seconds: 0.0 };
        for at in 0..VISITS {
            match ask(at) {
                Ok(name) => *visit.answers.entry(name).or_default() += 1,
                Err(error) => visit.failed.push(error.to_string()),
            }
            // Each failure may have cost all of the patience; a few are as telling as all.
            if visit.failed.len() == 3 {
                break;
            }
        }
        visit.seconds = started.elapsed().as_secs_f64();
        visit
    }

    /// A bar for every Pod, and whether those answered that should.
    pub(super) fn tell(&self, stage: &Stage, page: &mut Page, expected: &[&str]) {
        page.show(&table(&stage.pods.iter().map(|pod| self.bar(pod)).collect::<Vec<_>>()));
        page.check(&format!("all {VISITS} were answered, in {:.2} s", self.seconds), self.all_answered());
        let who =
            format!("only {} answered{}", expected.join(" and "), if expected.len() > 1 { ", evenly" } else { "" });
        page.check(&who, self.by(expected));
    }

    fn bar(&self, pod: &PodServers) -> [String; 5] {
        let count = self.answers.get(&pod.name).copied().unwrap_or(0);
        let bar = "#".repeat((count * BAR).div_ceil(VISITS));
        row([&pod.name, &pod.address, &format!("{count:>4}"), &format!("{:>3} %", count * 100 / VISITS), &bar])
    }

    fn all_answered(&self) -> Checked {
        match self.failed.first() {
            None => same(&self.answers.values().sum(), &VISITS),
            Some(error) => {
                Err(format!("{} failed before the test gave up, the first with: {error}", self.failed.len()))
            }
        }
    }

    fn by(&self, expected: &[&str]) -> Checked {
        let names: Vec<&str> = self.answers.keys().map(String::as_str).collect();
        same(&names.as_slice(), &expected)?;
        let least = self.answers.values().min().copied().unwrap_or(0);
        if expected.len() > 1 && least * 100 < VISITS * LEAST {
            return Err(format!("one Pod answered only {least} of {VISITS}, less than {LEAST} %"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(answers: &[(&str, usize)]) -> Visit {
        let answers = answers.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        Visit { answers, failed: Vec::new(), seconds: 0.0 }
    }

    #[test]
    fn a_visit_counts_who_answered() {
        let names = ["a", "b"];
        let visit = Visit::make(|at| Ok(names[at % 2].to_owned()));
        assert_eq!(visit.all_answered(), Ok(()));
        assert_eq!(visit.by(&names), Ok(()));
    }

    #[test]
    fn a_stranger_a_missing_backend_and_a_lopsided_choice_are_wrong() {
        assert!(visit(&[("a", 100), ("b", 99), ("c", 1)]).by(&["a", "b"]).is_err());
        assert!(visit(&[("a", 200)]).by(&["a", "b"]).is_err());
        assert!(visit(&[("a", 141), ("b", 59)]).by(&["a", "b"]).is_err());
        assert_eq!(visit(&[("a", 140), ("b", 60)]).by(&["a", "b"]), Ok(()));
        assert_eq!(visit(&[("a", 200)]).by(&["a"]), Ok(()));
    }

    #[test]
    fn a_visit_gives_up_after_a_few_failures() {
        let asked = std::cell::Cell::new(0);
        let visit = Visit::make(|_| {
            asked.set(asked.get() + 1);
            Err(io::ErrorKind::TimedOut.into())
        });
        assert_eq!(asked.get(), 3);
        assert!(visit.all_answered().is_err_and(|told| told.contains("timed out")));
    }
}
