//! Clients that change or delete one object at the same time.

use std::thread;

use super::*;

/// As many as each read a version; then half of them replace it and half delete it, all at once.
const CLIENTS: usize = 8;

/// Whatever the order, one of them finds the version it has read; the others conflict, or find nothing.
#[test]
fn of_those_who_mean_one_version_one_has_its_way() {
    let gateway = Gateway::new();
    let path = format!("{SERVICES}/web");
    for _ in 0..10 {
        let read = gateway.post(SERVICES, &service("web")).expect(201).json();
        let codes = thread::scope(|scope| {
            let client = |number: usize| {
                let (gateway, path, mut read) = (&gateway, &path, read.clone());
                scope.spawn(move || {
                    if number.is_multiple_of(2) {
                        read["metadata"]["labels"] = json!({"client": number.to_string()});
                        return gateway.put(path, &read).code;
                    }
                    let version = &read["metadata"]["resourceVersion"];
                    let options = json!({"preconditions": {"resourceVersion": version}}).to_string();
                    gateway.send("DELETE", path, &[], &options).code
                })
            };
            let clients: Vec<_> = (0..CLIENTS).map(client).collect();
            clients.into_iter().map(|client| client.join().expect("an answer")).collect::<Vec<_>>()
        });
        let count = |code: u16| codes.iter().filter(|found| **found == code).count();
        assert_eq!(count(200), 1, "{codes:?}");
        assert_eq!(count(409) + count(404), CLIENTS - 1, "{codes:?}");
        gateway.delete(&path);
    }
    gateway.stop();
}
