//! DNS: the worker writes the response into the query's own buffer.

use std::net::SocketAddr;
use std::time::Instant;

use super::page::{Checked, Page, row, same, table};
use super::stage::{FRONTEND, PATIENCE, Stage};
use crate::lab::traffic::{DnsAnswer, ask_dns};

/// The cluster's DNS address, which is the gateway's own.
pub(super) const SERVER: ([u8; 4], u16) = ([10, 96, 0, 10], 53);

/// A Service, an unknown name, a Service that is only an alias.
pub(super) fn resolve(stage: &Stage, page: &mut Page) -> Checked {
    page.say(
        "frontend-app knows only the name. It queries the cluster's DNS address, 10.96.0.10, which belongs to the \
         gateway. The worker that receives the query writes the answer.",
    );
    let answer = |rcode, address: Option<[u8; 4]>, alias: Option<&str>| DnsAnswer {
        rcode,
        addresses: address.into_iter().map(Into::into).collect(),
        aliases: alias.map(str::to_owned).into_iter().collect(),
    };
    let questions = [
        ("backend-service", "the Service's ClusterIP", answer(0, Some([10, 96, 0, 50]), None)),
        ("no-such-service", "an unknown name does not exist", answer(3, None, None)),
        (
            "external-service",
            "an ExternalName Service is an alias of its target",
            answer(0, None, Some("my.database.example.com")),
        ),
    ];
    let mut rows = vec![row([&"QUESTION (A)", &"ANSWER", &"", &"TIME"])];
    let mut checks = Vec::new();
    for (service, meaning, expected) in questions {
        let name = format!("{service}.default.svc.cluster.local");
        let asked = Instant::now();
        let found = ask_dns(stage.host(FRONTEND), SocketAddr::from(SERVER), &name, PATIENCE);
        let found = found.map_err(|error| format!("querying {name}: {error}"))?;
        rows.push(row([&name, &status(found.rcode), &told(&found), &format!("{} us", asked.elapsed().as_micros())]));
        checks.push((format!("{service}: {meaning}"), same(&found, &expected)));
    }
    page.show(&table(&rows));
    checks.into_iter().for_each(|(what, found)| page.check(&what, found));
    Ok(())
}

fn status(rcode: u8) -> String {
    match rcode {
        0 => "NOERROR".to_owned(),
        3 => "NXDOMAIN".to_owned(),
        other => format!("RCODE {other}"),
    }
}

fn told(answer: &DnsAnswer) -> String {
    let aliases = answer.aliases.iter().map(|alias| format!("CNAME {alias}"));
    let addresses = answer.addresses.iter().map(|address| format!("A {address}"));
    aliases.chain(addresses).collect::<Vec<_>>().join(", ")
}
