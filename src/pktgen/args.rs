//! The arguments, and the plan they make.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pollgate_common::hash::random_seed;
use pollgate_common::net::Mac;

use super::addresses::{Block, Family, Target, Tuples};
use super::flows::{FlowPlan, Order};
use super::pace::{self, Rate};
use super::ports::Backend;
use super::sender::{Churn, SendPlan, Size};
use super::share::Share;
use super::template;
use crate::output::Machine;

/// The largest frame: Ethernet's usual MTU, without FCS.
const LARGEST: usize = 1514;
/// Endpoints that are counted one by one at most.
const MAX_ENDPOINTS: u64 = 1 << 20;

/// `pollgate pktgen`
#[derive(Debug, Args)]
pub struct PktgenArgs {
    /// The interface on the clients' side of the gateway
    #[arg(short, long, value_name = "IF")]
    pub interface: String,
    /// The interface on the backends' side, where translated packets arrive; may be the same
    #[arg(long, value_name = "IF")]
    pub sink: Option<String>,
    /// Services to send to: ADDRESS:PORT, NETWORK/LENGTH:PORT or FIRST-LAST:PORT (repeatable, or separated by commas);
    /// IPv6 addresses in brackets
    #[arg(long, value_name = "ADDR:PORT", required = true, value_delimiter = ',')]
    pub to: Vec<String>,
    /// Client addresses: ADDRESS, NETWORK/LENGTH or FIRST-LAST; pktgen answers ARP and neighbour solicitations for them
    /// [default: 198.18.0.0/16, or 2001:2::/112]
    #[arg(long, value_name = "CIDR")]
    pub from: Option<String>,
    /// Backend addresses, in the same forms; pktgen answers for them on the sink and counts the packets of each
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub answer: Vec<String>,
    /// More addresses to answer for, on both sides, such as the next hops of the gateway's routes
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub next_hop: Vec<String>,
    /// The gateway's address on the clients' side; its hardware address is resolved by ARP or neighbour discovery
    #[arg(long, value_name = "ADDR", required_unless_present = "gateway_mac")]
    pub gateway: Option<IpAddr>,
    /// The gateway's hardware address, instead of resolving it
    #[arg(long, value_name = "MAC", value_parser = mac)]
    pub gateway_mac: Option<Mac>,
    /// Send each packet back from the sink, through the gateway
    #[arg(long, requires = "sink")]
    pub reply: bool,
    /// Packets per second, such as 250k or 1.5M; or max: as many as the port accepts
    #[arg(short, long, value_name = "PPS|max", default_value = "max", value_parser = rate)]
    pub rate: Rate,
    /// Bytes per frame without FCS, up to 1514; or imix: 60, 590 and 1514 as 7:4:1 [default: 64, TCP 72; 80 and 92 over IPv6]
    #[arg(long, value_name = "BYTES|imix", value_parser = size)]
    pub size: Option<Size>,
    /// Protocol of the packets
    #[arg(long, value_enum, default_value = "udp")]
    pub protocol: Protocol,
    /// Share of TCP flows, with --protocol mix
    #[arg(long, value_name = "0…1", default_value = "0.5", value_parser = share)]
    pub tcp_share: Share,
    /// Number of concurrent flows
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub flows: u32,
    /// Number of the first flow; use another one in the next run if the gateway still knows the flows of this run
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub first_flow: u32,
    /// Flows to replace per second, oldest first
    #[arg(long, value_name = "PPS", value_parser = count, conflicts_with = "every_packet_new")]
    pub new_flows: Option<u64>,
    /// Make each packet the first of a new flow
    #[arg(long)]
    pub every_packet_new: bool,
    /// Order in which the flows send packets
    #[arg(long, value_enum, default_value = "turn")]
    pub order: Order,
    /// Share of packets sent to a Service; the others go to --stray-port
    #[arg(long, value_name = "0…1", default_value = "1", value_parser = share)]
    pub hit_ratio: Share,
    /// A port that none of the Services uses
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    pub stray_port: u16,
    /// How long to measure
    #[arg(short, long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub duration: Duration,
    /// How long to send before measuring; these packets are not counted
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub warmup: Duration,
    /// Maximum number of packets sent at once
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub burst: u16,
    /// Seed of the random order; the same seed gives the same order
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Threads; with 2 the sink has its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub threads: u8,
    /// How frames are sent and received
    #[arg(long, value_enum, default_value = "packet")]
    pub backend: Backend,
    /// Output format of the result [default: text]
    #[arg(short, long, value_enum)]
    pub output: Option<Machine>,
    /// Report progress every second, even if stderr is not a terminal
    #[arg(long)]
    pub progress: bool,
}

/// What the packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP: a flow's first packet is its SYN.
    Tcp,
    /// Both: --tcp-share sets the share of TCP flows.
    Mix,
}

/// What it means.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) send: SendPlan,
    pub(super) clients: Block,
    pub(super) backends: Vec<Block>,
    pub(super) next_hops: Vec<Block>,
    /// The number of tuples: fewer than flows opened means that some were repeated.
    pub(super) tuples: u64,
}

impl PktgenArgs {
    /// The plan that the arguments make together, or the contradiction.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        let targets = self.to.iter().map(|text| parse("--to", text)).collect::<Result<Vec<Target>, _>>()?;
        let family = targets.first().map_or(Family::V4, |target| target.block.family());
        let clients: Block = parse("--from", self.from.as_deref().unwrap_or_else(|| default_clients(family)))?;
        let backends = self.answer.iter().map(|text| parse("--answer", text)).collect::<Result<Vec<Block>, _>>()?;
        let next_hops = self.next_hop.iter().map(|text| parse("--next-hop", text)).collect::<Result<_, _>>()?;
        let endpoints: u64 = backends.iter().map(Block::count).sum();
        if endpoints > MAX_ENDPOINTS {
            return Err(format!(
                "--answer: {endpoints} addresses, but at most {MAX_ENDPOINTS} can be counted: use --next-hop"
            ));
        }
        if self.hit_ratio != Share::ALL
            && let Some(target) = targets.iter().find(|target| target.port == self.stray_port)
        {
            return Err(format!("--stray-port {}: a Service in --to uses this port", target.port));
        }
        let blocks = targets.iter().map(|target| &target.block).chain([&clients]).chain(&backends);
        let gateway = self.gateway.map(Family::of);
        if !blocks.map(Block::family).chain(gateway).all(|other| other == family) {
            return Err("--to, --from, --answer and --gateway must be of one IP family".to_owned());
        }
        let tuples = Tuples::new(clients, targets);
        let plan = Plan { tuples: tuples.count(), send: self.send_plan(tuples)?, clients, backends, next_hops };
        match plan.send.flows.count {
            flows if u64::from(flows) > plan.tuples => {
                Err(format!("--flows {flows}: only {} are possible: add addresses to --from", plan.tuples))
            }
            _ => Ok(plan),
        }
    }

    fn send_plan(&self, tuples: Tuples) -> Result<SendPlan, String> {
        let tcp_share = match self.protocol {
            Protocol::Udp => Share::NONE,
            Protocol::Tcp => Share::ALL,
            Protocol::Mix => self.tcp_share,
        };
        let churn = match self.new_flows {
            Some(rate) => Churn::PerSecond(rate),
            None if self.every_packet_new => Churn::EveryPacket,
            None => Churn::None,
        };
        Ok(SendPlan {
            rate: self.rate,
            burst: usize::from(self.burst),
            size: self.checked_size(tuples.family())?,
            flows: FlowPlan {
                count: self.flows,
                first: self.first_flow / self.flows * self.flows,
                tuples,
                tcp_share,
                order: self.order,
                seed: self.seed,
            },
            churn,
            hits: self.hit_ratio,
            stray_port: self.stray_port,
            run: u16::try_from(random_seed()[0] >> 48).unwrap_or(0),
        })
    }

    fn checked_size(&self, family: Family) -> Result<Size, String> {
        let smallest = template::smallest(family, self.protocol != Protocol::Udp);
        match self.size {
            None => Ok(Size::Bytes(smallest.max(64))),
            Some(Size::Bytes(size)) if !(smallest..=LARGEST).contains(&size) => {
                Err(format!("--size {size}: expected {smallest} (headers and an 18-byte stamp) to {LARGEST}, or imix"))
            }
            Some(size) => Ok(size),
        }
    }
}

/// Networks for benchmarks (RFC 2544 appendix C.2.2; RFC 5180 §8): 65 thousand addresses.
fn default_clients(family: Family) -> &'static str {
    match family {
        Family::V4 => "198.18.0.0/16",
        Family::V6 => "2001:2::/112",
    }
}

fn parse<T: std::str::FromStr<Err = String>>(option: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{option}: {error}"))
}

fn mac(text: &str) -> Result<Mac, String> {
    text.parse().map_err(|_| format!("expected a hardware address such as 02:00:00:00:00:01, not {text:?}"))
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" { Ok(Rate::Max) } else { count(text).map(Rate::PerSecond) }
}

/// A number of packets or flows per second: 1000, 250k, 1.5M.
fn count(text: &str) -> Result<u64, String> {
    let wanted = || format!("expected a number from 1 to {} such as 1000, 250k or 1.5M, not {text:?}", pace::MAX_RATE);
    let (digits, decimals) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 3),
        Some((at, 'm' | 'M')) => (&text[..at], 6),
        _ => (text, 0),
    };
    let number = decimal(digits, decimals);
    number.filter(|number| (1..=pace::MAX_RATE).contains(number)).ok_or_else(wanted)
}

/// A number with at most so many decimals, without its point.
fn decimal(text: &str, decimals: usize) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    if part.len() > decimals || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{part:0<decimals$}").parse().ok()
}

fn size(text: &str) -> Result<Size, String> {
    if text == "imix" {
        return Ok(Size::Imix);
    }
    text.parse().map(Size::Bytes).map_err(|_| format!("expected a number of bytes or imix, not {text:?}"))
}

fn share(text: &str) -> Result<Share, String> {
    let share = decimal(text, 6).and_then(|millionths| u32::try_from(millionths).ok()).and_then(Share::new);
    share.ok_or_else(|| format!("expected a share from 0 to 1, with at most six decimals, not {text:?}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("expected seconds, such as 10 or 0.5, not {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: PktgenArgs,
    }

    fn typed(line: &str) -> Result<PktgenArgs, String> {
        let words = "pktgen -i eth0".split(' ').chain(line.split(' '));
        Ok(Line::try_parse_from(words).map_err(|error| error.to_string())?.args)
    }

    fn plan(line: &str) -> Result<Plan, String> {
        typed(line)?.plan()
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        assert_eq!(count("250k"), Ok(250_000));
        assert_eq!(count("1.5M"), Ok(1_500_000));
        assert_eq!(count("1.488095M"), Ok(1_488_095));
        assert_eq!(count("7"), Ok(7));
        for wrong in ["", "0", "-1", "k", "1.5", "1.0005k", "1e6", "2000M", "1.-5M"] {
            assert!(count(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!((share("0.3"), share("1")), (Ok(Share::new(300_000).expect("a share")), Ok(Share::ALL)));
        assert!(share("1.000001").is_err() && share("-0.5").is_err() && share("0.0000001").is_err());
    }

    #[test]
    fn a_line_becomes_a_plan() {
        let plan = plan(
            "--gateway 10.0.0.1 --to 10.96.0.1-10.96.0.5:80,10.96.1.0/24:443 --rate 1M --protocol tcp --hit-ratio 0.9",
        )
        .expect("a plan");
        assert_eq!(plan.tuples, (5 + 254) * 65534 * 64512);
        assert_eq!((plan.send.rate, plan.send.size), (Rate::PerSecond(1_000_000), Size::Bytes(72)));
        assert_eq!((Some(plan.send.hits), plan.send.flows.tcp_share), (Share::new(900_000), Share::ALL));
    }

    #[test]
    fn ipv6_services_have_ipv6_clients() {
        let plan = plan("--gateway 2001:db8::1 --to [2001:db8:96::1-2001:db8:96::5]:80").expect("a plan");
        assert_eq!((plan.clients.family(), plan.tuples), (Family::V6, 5 * 65535 * 64512));
        assert_eq!(plan.send.size, Size::Bytes(80));
    }

    #[test]
    fn wrong_lines_are_told_what_is_wrong() {
        let gateway = "--gateway 10.0.0.1";
        let cases = [
            ("--to 10.96.0.1:80".to_owned(), "--gateway"),
            (format!("{gateway} --to 10.96.0.1"), "--to: expected ADDRESS:PORT"),
            (format!("{gateway} --to [2001:db8::1]:80"), "of one IP family"),
            (format!("{gateway} --to 10.96.0.1:80 --from 2001:db8::/112"), "of one IP family"),
            ("--gateway 2001:db8::1 --to [2001:db8::7]:80 --size 79".to_owned(), "--size 79: expected 80"),
            ("--gateway 2001:db8::1 --to [2001:db8::/64]:80".to_owned(), "--to: 2001:db8::/64: at most 4294967296"),
            (format!("{gateway} --to 10.96.0.1:80 --size 59"), "--size 59: expected 60"),
            (format!("{gateway} --to 10.96.0.1:80 --size 64 --protocol mix"), "--size 64: expected 72"),
            (format!("{gateway} --to 10.96.0.1:9 --hit-ratio 0.5"), "--stray-port 9"),
            (format!("{gateway} --to 10.96.0.1:80 --hit-ratio 2"), "from 0 to 1"),
            (format!("{gateway} --to 10.96.0.1:80 --from 10.1.0.1 --flows 70000"), "only 64512 are possible"),
            (format!("{gateway} --to 10.96.0.1:80 --reply"), "--sink"),
            (format!("{gateway} --to 10.96.0.1:80 --every-packet-new --new-flows 5"), "--new-flows"),
            (format!("{gateway} --to 10.96.0.1:80 --answer 10.0.0.0/8"), "use --next-hop"),
        ];
        for (line, part) in cases {
            let told = plan(&line).err().unwrap_or_else(|| panic!("{line} is taken"));
            assert!(told.contains(part), "expected {part:?} in {told:?}");
        }
    }
}
