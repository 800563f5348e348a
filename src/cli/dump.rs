//! `pollgate dump`: the compiled tables and the flows, page by page, as text or JSON.

use std::io::Write;

use pollgate_control::api::DUMP_PATH;
use pollgate_control::observe::dump::{
    BackendItem, FlowItem, FrontendItem, Items, OwnedItem, Page, RingItem, ServiceItem, ShareItem, Table, ZoneItem,
};
use pollgate_control::printers::align_after;
use serde::Serialize;

use super::args::DumpArgs;
use super::client::{Client, escaped};
use crate::failure::Failure;
use crate::output::{Machine, strange};

/// `pollgate dump`
///
/// # Errors
/// If the gateway cannot be asked or the answer not be written.
pub fn dump(args: &DumpArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.connection.socket)?;
    let tables = args.table.map_or_else(|| Table::ALL.to_vec(), |table| vec![table]);
    for (index, table) in tables.iter().enumerate() {
        match args.output {
            Some(Machine::Json) => as_json(&client, args, *table, out)?,
            None => {
                if tables.len() > 1 {
                    writeln!(out, "{}{}", if index == 0 { "" } else { "\n" }, heading(*table))?;
                }
                as_text(&client, args, *table, out)?;
            }
        }
    }
    Ok(())
}

fn heading(table: Table) -> &'static str {
    match table {
        Table::Frontends => "Frontends",
        Table::Services => "Services",
        Table::Rings => "Rings",
        Table::Owned => "Owned addresses",
        Table::Zone => "DNS zone",
        Table::Flows => "Flows",
    }
}

/// Gives each page to `each`, in order.
fn pages(
    client: &Client,
    args: &DumpArgs,
    table: Table,
    each: &mut dyn FnMut(Page) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let filters = [
        ("address", args.address.map(|address| address.to_string())),
        ("port", args.port.map(|port| port.to_string())),
        ("protocol", args.protocol.clone()),
        ("service", args.service.clone()),
    ];
    let filters = filters.into_iter().filter_map(|(name, value)| Some(format!("&{name}={}", escaped(&value?))));
    let path = format!("{DUMP_PATH}/{}?{}", table.name(), filters.collect::<String>().trim_start_matches('&'));
    let mut rest: Option<String> = None;
    loop {
        let after = rest.map(|token| format!("&continue={}", escaped(&token))).unwrap_or_default();
        let page: Page =
            serde_json::from_value(client.get(&format!("{path}{after}"))?).map_err(|error| strange(&error))?;
        rest = page.rest.clone();
        each(page)?;
        if rest.is_none() {
            return Ok(());
        }
    }
}

/// One document: the items of all pages, one per line.
fn as_json(client: &Client, args: &DumpArgs, table: Table, out: &mut dyn Write) -> Result<(), Failure> {
    let (mut is_begun, mut has_items) = (false, false);
    pages(client, args, table, &mut |page| {
        if !std::mem::replace(&mut is_begun, true) {
            write!(out, "{{\"table\":\"{}\",\"generation\":{},\"items\":[", table.name(), page.generation)?;
        }
        let separator = if has_items { ",\n" } else { "\n" };
        has_items |= match &page.items {
            Items::Frontends(items) => write_items(items, separator, out)?,
            Items::Services(items) => write_items(items, separator, out)?,
            Items::Rings(items) => write_items(items, separator, out)?,
            Items::Owned(items) => write_items(items, separator, out)?,
            Items::Zone(items) => write_items(items, separator, out)?,
            Items::Flows(items) => write_items(items, separator, out)?,
        };
        Ok(())
    })?;
    Ok(writeln!(out, "\n]}}")?)
}

/// Writes the items, `first` before the first of them. Returns whether there were any.
fn write_items<T: Serialize>(items: &[T], first: &str, out: &mut dyn Write) -> Result<bool, Failure> {
    for (index, item) in items.iter().enumerate() {
        let text = serde_json::to_string(item).map_err(|error| strange(&error))?;
        write!(out, "{}{text}", if index == 0 { first } else { ",\n" })?;
    }
    Ok(!items.is_empty())
}

fn as_text(client: &Client, args: &DumpArgs, table: Table, out: &mut dyn Write) -> Result<(), Failure> {
    let mut widths = Vec::new();
    pages(client, args, table, &mut |page| {
        let rows = rows(page.items);
        let heading = widths.is_empty().then(|| columns(table).iter().map(ToString::to_string).collect());
        let lines: Vec<Vec<String>> = heading.into_iter().chain(rows).collect();
        Ok(write!(out, "{}", align_after(&lines, 3, &mut widths))?)
    })
}

fn columns(table: Table) -> &'static [&'static str] {
    match table {
        Table::Frontends => &["ADDRESS", "PORT", "PROTOCOL", "KIND", "SERVICE"],
        Table::Services => &["INDEX", "SERVICE", "INTERNAL", "EXTERNAL", "AFFINITY", "FRONTENDS", "BACKENDS"],
        Table::Rings => &["SERVICE", "POLICY", "SIZE", "DIGEST", "BACKENDS"],
        Table::Owned => &["ADDRESS", "KIND"],
        Table::Zone => &["NAME", "TTL", "TYPE", "DATA"],
        Table::Flows => &["WORKER", "PROTOCOL", "CLIENT", "FRONTEND", "SOURCE", "BACKEND", "STATE", "IDLE", "SERVICE"],
    }
}

fn rows(items: Items) -> Vec<Vec<String>> {
    match items {
        Items::Frontends(items) => items.into_iter().map(frontend).collect(),
        Items::Services(items) => items.into_iter().map(service).collect(),
        Items::Rings(items) => items.into_iter().map(ring).collect(),
        Items::Owned(items) => items.into_iter().map(owned).collect(),
        Items::Zone(items) => items.into_iter().map(records).collect(),
        Items::Flows(items) => items.into_iter().map(flow).collect(),
    }
}

fn frontend(item: FrontendItem) -> Vec<String> {
    vec![item.address.to_string(), item.port.to_string(), item.protocol, item.kind, item.service]
}

fn service(item: ServiceItem) -> Vec<String> {
    let end = |frontend: &FrontendItem| {
        format!("{}/{}", std::net::SocketAddr::new(frontend.address, frontend.port), frontend.protocol)
    };
    let backend = |backend: &BackendItem| {
        let at = std::net::SocketAddr::new(backend.address, backend.port);
        format!("{at}{}", if backend.serving { "" } else { " (not serving)" })
    };
    vec![
        item.index.to_string(),
        item.service,
        item.internal_traffic_policy,
        item.external_traffic_policy,
        item.session_affinity,
        joined(item.frontends.iter().map(end)),
        joined(item.backends.iter().map(backend)),
    ]
}

fn ring(item: RingItem) -> Vec<String> {
    let share = |share: &ShareItem| format!("{} {}", share.backend, percent(share.entries, item.size));
    let backends = joined(item.backends.iter().map(share));
    vec![item.service, item.policy, item.size.to_string(), item.digest, backends]
}

fn owned(item: OwnedItem) -> Vec<String> {
    vec![item.address.to_string(), item.kind]
}

fn records(item: ZoneItem) -> Vec<String> {
    let rtype = if item.rtype.is_empty() { "<none>".to_owned() } else { item.rtype };
    vec![item.name, item.ttl.to_string(), rtype, joined(item.data.into_iter())]
}

fn flow(item: FlowItem) -> Vec<String> {
    vec![
        item.worker.to_string(),
        item.protocol,
        item.client.to_string(),
        item.frontend.to_string(),
        item.source.to_string(),
        item.backend.to_string(),
        item.state,
        format!("{}s", item.client_idle.min(item.backend_idle)),
        item.service.unwrap_or_else(|| "<none>".to_owned()),
    ]
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "<none>".to_owned() } else { texts.join(", ") }
}

/// `part` of `whole` in per cent, to a tenth.
fn percent(part: usize, whole: usize) -> String {
    let tenths = part * 1000 / whole.max(1);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn cells(table: &str, item: Value) -> Vec<String> {
        let page = json!({"generation": 1, "table": table, "items": [item]});
        let page: Page = serde_json::from_value(page).expect("a page");
        let mut rows = rows(page.items);
        assert_eq!(rows[0].len(), columns(table.parse().expect("a table")).len());
        rows.remove(0)
    }

    #[test]
    fn each_table_has_its_columns() {
        let frontend =
            json!({"address": "10.96.0.50", "port": 80, "protocol": "TCP", "kind": "ClusterIP", "service": "a/b:c"});
        assert_eq!(cells("frontends", frontend.clone()), ["10.96.0.50", "80", "TCP", "ClusterIP", "a/b:c"]);
        let backend = |serving: bool| json!({"slot": 0, "address": "10.0.0.1", "port": 8080, "incarnation": 0, "serving": serving, "cluster": true, "local": true});
        let service = json!({"service": "a/b:c", "index": 3, "incarnation": 0, "frontends": [frontend],
            "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Local", "sessionAffinity": "None",
            "sourceRanges": [], "closed": false, "hasEndpoints": true, "backends": [backend(true), backend(false)]});
        let backends = "10.0.0.1:8080, 10.0.0.1:8080 (not serving)";
        assert_eq!(
            cells("services", service),
            ["3", "a/b:c", "Cluster", "Local", "None", "10.96.0.50:80/TCP", backends]
        );
        let ring = json!({"service": "a/b:c", "index": 3, "policy": "Local", "size": 251, "digest": "0f",
            "backends": [{"backend": "10.0.0.1:8080", "entries": 126}]});
        assert_eq!(cells("rings", ring), ["a/b:c", "Local", "251", "0f", "10.0.0.1:8080 50.1 %"]);
        assert_eq!(cells("owned", json!({"address": "10.0.0.9", "kind": "Gateway"})), ["10.0.0.9", "Gateway"]);
        let empty = json!({"name": "svc.", "type": "", "ttl": 5, "data": []});
        assert_eq!(cells("zone", empty), ["svc.", "5", "<none>", "<none>"]);
        let flow = json!({"worker": 1, "protocol": "UDP", "client": "10.0.0.1:1", "frontend": "10.0.0.2:2",
            "source": "10.0.0.3:3", "backend": "[fd00::4]:4", "service": null, "state": "opening", "clientIdle": 7, "backendIdle": 3});
        let ends = ["10.0.0.1:1", "10.0.0.2:2", "10.0.0.3:3", "[fd00::4]:4"];
        assert_eq!(cells("flows", flow), [&["1", "UDP"], &ends[..], &["opening", "3s", "<none>"]].concat());
    }
}
