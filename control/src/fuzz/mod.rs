//! Fuzz targets of the control side: plain functions over bytes, as those in `tests/fuzz`, run in the same way.
//!
//! Each is beside what it is about: requests and patches in `api/tests/fuzz`, netlink messages in `netlink/fuzz`, messages of DNS
//! servers in `dns/resolver/fuzz`. [`manifests`] and [`state`] are here.

#[path = "../../../tests/fuzz/choices.rs"]
#[allow(dead_code, reason = "a part of it is used")]
pub(crate) mod choices;
mod manifests;
mod state;
pub(crate) mod values;
#[path = "../../../tests/fuzz/whole.rs"]
#[allow(dead_code, reason = "a part of it is used")]
pub(crate) mod whole;

use bolero::check;

#[test]
fn bodies() {
    check!(name = "bodies").with_max_len(2000).with_iterations(300).for_each(crate::api::tests::fuzz::bodies);
}

#[test]
fn patches() {
    check!(name = "patches").with_max_len(2000).with_iterations(300).for_each(crate::api::tests::fuzz::patches);
}

#[test]
fn manifests() {
    check!(name = "manifests").with_max_len(2000).with_iterations(200).for_each(manifests::fuzz);
}

#[test]
fn state() {
    check!(name = "state").with_max_len(2000).with_iterations(60).for_each(state::fuzz);
}

#[test]
fn netlink() {
    check!(name = "netlink").with_max_len(2000).with_iterations(3000).for_each(crate::netlink::fuzz::fuzz);
}

#[test]
fn upstream() {
    check!(name = "upstream").with_max_len(2000).with_iterations(3000).for_each(crate::dns::resolver::fuzz::fuzz);
}
