//! The target of the configuration file: any text is read, or refused with every fault's line; what is read can be used.

use pollgate::config::{Config, ConfigError, Purpose};
use pollgate_common::dns::zone::ZoneSettings;
use pollgate_common::net::Facts;
use pollgate_common::settings::DataplaneSettings;
use pollgate_control::cluster::ClusterSettings;
use pollgate_control::netlink::OwnedAddresses;
use pollgate_dataplane::flow::Limits;

use super::choices::Choices;

/// Two configurations that have every section; the target changes them.
const WHOLE: [(&str, Purpose); 2] =
    [(include_str!("../../examples/gateway.yaml"), Purpose::Run), (super::frames::CONFIG, Purpose::Replay)];

/// What values are replaced by.
const VALUES: &str = "0 -1 1 65536 18446744073709551616 1e400 true null ~ {} [] [[]] {a:b} '' \"\" \"\\u0000\" & * ! | > \
                      10.0.0.0/33 0.0.0.0/0 ::/0 fe80::1 255.255.255.255 1-0 1024-29999 99999999999h -5s 24h 02:00:00:00:00:00 \
                      cluster.local. .. a..b auto poll xdp replay /";

/// The target: the text as it is, or one of [`WHOLE`] with lines of it changed.
pub(super) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices::of(bytes);
    let head = choices.byte();
    if head & 1 == 0 {
        let purpose = if head & 2 == 0 { Purpose::Run } else { Purpose::Replay };
        return read(&String::from_utf8_lossy(choices.rest()), purpose);
    }
    let (whole, purpose) = choices.of_list(&WHOLE);
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    while !choices.is_empty() {
        change(&mut lines, &mut choices);
    }
    read(&lines.join("\n"), purpose);
}

fn change(lines: &mut Vec<String>, choices: &mut Choices<'_>) {
    let at = usize::from(choices.half()) % lines.len().max(1);
    let values: Vec<&str> = VALUES.split_whitespace().collect();
    if choices.one_in(8)
        && let Some(line) = lines.get(at).cloned()
    {
        lines.insert(at, line);
    }
    let Some(line) = lines.get_mut(at) else { return };
    let start = line.find(':').map_or(0, |colon| colon + 1);
    match choices.below(8) {
        0 => drop(lines.remove(at)),
        1 => *line = line.chars().take(choices.below(40)).collect(),
        2 => *line = String::from_utf8_lossy(choices.bytes(12)).into_owned(),
        3 => *line = format!("  {line}"),
        4 => line.push_str(&String::from_utf8_lossy(choices.bytes(4))),
        _ => *line = format!("{} {}", line.get(..start).unwrap_or_default(), choices.of_list(&values)),
    }
    lines.truncate(2000);
}

fn read(text: &str, purpose: Purpose) {
    let lines = text.lines().count() as u64 + 1;
    match Config::parse("gateway.yaml", text, purpose) {
        Ok(config) => use_it(&config),
        Err(ConfigError::Faulty { faults, .. }) => {
            assert!(!faults.is_empty(), "refused without a fault");
            for fault in faults {
                assert!((1..=lines).contains(&fault.line), "{fault} is in none of {lines} lines");
            }
        }
        Err(ConfigError::Unreadable { error, .. }) => panic!("a text is not a file: {error}"),
    }
}

/// Makes of it what the gateway's parts get.
fn use_it(config: &Config) {
    let _ = (DataplaneSettings::from(config), ClusterSettings::from(config), ZoneSettings::from(config));
    let _ = (OwnedAddresses::from(config), Facts::from(config), Limits::from(config).share(2));
    let _ = (config.owned_addresses(), config.warnings(), config.has_pair());
    assert!(!config.addresses.is_empty() && !config.interfaces.is_empty());
}
