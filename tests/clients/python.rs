//! The official Python client: typed objects, its own errors, and what it thinks a server must answer.

use crate::clients::support::Place;
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Lab, PythonClient};

tests! {
    [Lab, PythonClient] =>
        the_typed_client_lists_reads_writes_and_deletes;
}

fn the_typed_client_lists_reads_writes_and_deletes() {
    let place = &Place::new();
    assert_eq!(place.python("objects.py"), "all as it should be\n");
}
