//! The official Python client: typed objects, its own errors, and what it thinks a server must answer.

use crate::support::with_python;

#[test]
fn the_typed_client_lists_reads_writes_and_deletes() {
    with_python("python::the_typed_client_lists_reads_writes_and_deletes", |place| {
        assert_eq!(place.python("objects.py"), "all as it should be\n");
    });
}
