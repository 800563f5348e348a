//! What the gateway would do with a packet or a DNS query: each decision in words, with its reason.
//!
//! ```text
//!  worker ── PacketTrace (decisions, as data) ──▶ packet() ──▶ Report ──▶ JSON, or text for people
//!  zone ──── the answer, as clients get it ─────▶ dns()    ──▶ Report
//! ```
//!
//! The decisions are the packet path's own. What is added here are names, sentences, and from the objects of the cluster why the
//! other endpoints of the Service were not chosen.

mod dns;
mod packet;

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::dns::{BadQuestion, Listener, dns, record_type};
pub use self::packet::{Objects, packet};

/// A trace in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The decisions, in their order.
    pub steps: Vec<Step>,
    /// Of a packet `sent`, `held`, `answered`, `passed`, `refused` or `dropped`; of a DNS query `answered`, `forwarded` or `unanswered`.
    pub result: String,
    /// The result in a sentence.
    pub summary: String,
    /// Whether the packet is delivered, or the query forwarded or answered with records of its type.
    pub delivered: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The generation of the tables.
    pub generation: u64,
    /// The worker that has the flow, or would open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
    /// The packet as it comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<Packet>,
    /// The packet as it is sent on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub translated: Option<Translated>,
    /// Where it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<Hop>,
    /// Where the reply is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Hop>,
    /// The Service port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Its endpoints of the packet's family, and what is known of others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointItem>,
    /// The response code and the records of a DNS answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
}

/// A decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which stage decides.
    pub stage: String,
    /// What.
    pub decision: String,
    /// Why; empty if that says it all.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub why: String,
}

/// The reason of a drop, or of leaving a packet to the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reason {
    /// The counter's name.
    pub name: String,
    /// What happens.
    pub sentence: String,
    /// What to do.
    pub action: String,
    /// What the sender gets; empty for nothing.
    pub sender_gets: String,
}

/// A packet as it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Transport protocol.
    pub protocol: String,
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
}

/// A packet as it is sent on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Translated {
    /// Source address.
    pub source: IpAddr,
    /// Source port; `None` if it is chosen when the flow opens.
    pub source_port: Option<u16>,
    /// Destination.
    pub to: SocketAddr,
    /// Whether the source address is translated.
    pub snat: bool,
}

/// A next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The interface.
    pub interface: String,
    /// The router; `None` if the destination is on the link.
    pub via: Option<IpAddr>,
    /// The MAC address of the next hop.
    pub mac: String,
    /// The largest IP packet that the interface sends.
    pub mtu: u32,
}

/// An endpoint, or a Pod that is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointItem {
    /// Address and port; empty for a Pod that is no endpoint.
    pub endpoint: String,
    /// The Pod; empty if it is not known.
    pub pod: String,
    /// Whether a new flow like this may get it.
    pub used: bool,
    /// How many entries of the ring name it.
    pub entries: usize,
    /// Entries of the ring.
    pub size: usize,
    /// Why it is not used; empty if it is.
    pub why: String,
}

/// An answer of the cluster's DNS server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The response code, as in RFC 1035: `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// Whether it does not fit and the client is to ask by TCP.
    pub truncated: bool,
    /// The records.
    pub records: Vec<RecordItem>,
}

/// A DNS record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordItem {
    /// Its type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Seconds.
    pub ttl: u32,
    /// Its data.
    pub data: String,
}

impl Report {
    fn step(&mut self, stage: &str, decision: impl Into<String>, why: impl Into<String>) {
        self.steps.push(Step { stage: stage.to_owned(), decision: decision.into(), why: why.into() });
    }

    /// For people: the decisions, the endpoints, and the result.
    pub fn text(&self) -> String {
        let mut lines: Vec<Vec<String>> = Vec::new();
        for Step { stage, decision, why } in &self.steps {
            lines.push(vec![stage.clone(), decision.clone()]);
            if !why.is_empty() {
                lines.push(vec![String::new(), format!("  {why}")]);
            }
        }
        let mut text = crate::printers::columns(&lines);
        if !self.endpoints.is_empty() {
            text.push_str("\nEndpoints\n");
            let header = ["  ENDPOINT", "POD", "USED", "SHARE", "WHY NOT"].map(str::to_owned).to_vec();
            let rows = self.endpoints.iter().map(EndpointItem::row);
            text.push_str(&crate::printers::columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>()));
        }
        let _ = writeln!(text, "\n{}: {}", self.result.to_uppercase(), self.summary);
        if let Some(reason) = &self.reason {
            let _ = writeln!(text, "  {}: {}", reason.name, reason.sentence);
            let _ = writeln!(text, "  What to do: {}", reason.action);
        }
        text
    }
}

impl EndpointItem {
    fn row(&self) -> Vec<String> {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let tenths = (self.entries * 1000 + self.size / 2) / self.size.max(1);
        let share = if self.used { format!("{}.{} %", tenths / 10, tenths % 10) } else { "-".to_owned() };
        let used = if self.used { "yes" } else { "no" };
        vec![format!("  {}", or_dash(&self.endpoint)), or_dash(&self.pod), used.to_owned(), share, self.why.clone()]
    }
}
