//! Fuzz targets: plain functions over bytes, `fn fuzz(&[u8])`, that panic if the gateway does what it must not.
//!
//! The library `bolero` runs them: as ordinary tests over the saved corpus (`__fuzz__/TARGET/corpus`, one file per input) and some
//! random inputs, and by `.ci/fuzz` for minutes, with libFuzzer, which sees what each input reaches. An input that once broke
//! something is added to the corpus.
//!
//! [`frames`] whole workers · [`dns`] queries · [`config`] the configuration file. Those of the control side are in
//! `control/src/fuzz`.

mod choices;
mod config;
pub(crate) mod dns;
mod frames;
mod whole;

use bolero::check;

#[test]
fn frames() {
    check!(name = "frames").with_max_len(2000).with_iterations(300).for_each(frames::fuzz);
}

#[test]
fn dns() {
    check!(name = "dns").with_max_len(2000).with_iterations(5000).for_each(dns::fuzz);
}

#[test]
fn config() {
    check!(name = "config").with_max_len(2000).with_iterations(500).for_each(config::fuzz);
}
