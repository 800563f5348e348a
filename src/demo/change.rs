//! What clients notice when endpoints are missing, and when they change.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::objects::endpoints;
use super::page::{Checked, Page, same};
use super::stage::{BACKENDS, FRONTEND, PATIENCE, Stage};
use super::visits::Visit;
use crate::lab::traffic::{ask_tcp, connect, greeting};

/// The Pod that leaves.
const LEAVER: &str = BACKENDS[1];
/// The Pod that stays.
const STAYER: &str = BACKENDS[0];
/// Connections opened until one is answered by the Pod that will leave: by chance all miss it once in 2⁶⁴.
const TRIES: usize = 64;
/// At once: before the kernel repeats its SYN, which it does after 1 s.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A Service without endpoints, and a port that no Service has.
pub(super) fn refusal(stage: &Stage, page: &mut Page) -> Checked {
    page.say(
        "If a Service cannot serve a connection, the client is refused at once instead of waiting for a time-out.",
    );
    let empty = stage.cluster_ip("empty-service")?;
    let mut undefined = stage.cluster_ip("backend-service")?;
    undefined.set_port(9999);
    page.check(&format!("empty-service, {empty}, has no endpoints: refused"), refused(stage, empty));
    page.check(&format!("backend-service has no port 9999, {undefined}: refused"), refused(stage, undefined));
    Ok(())
}

fn refused(stage: &Stage, address: SocketAddr) -> Checked {
    let asked = Instant::now();
    let Err(found) = connect(stage.host(FRONTEND), address, PATIENCE) else {
        return Err("it was connected".to_owned());
    };
    let took = asked.elapsed();
    match found.kind() {
        ErrorKind::ConnectionRefused if took < AT_ONCE => Ok(()),
        _ => Err(format!("after {took:?}: {found}")),
    }
}

/// One label changes while a connection is open, and changes back.
pub(super) fn relabel(stage: &Stage, page: &mut Page) -> Checked {
    let address = stage.cluster_ip("backend-service")?;
    let open = connection_to(LEAVER, address, stage)?;
    page.say(&format!(
        "frontend-app has an open connection to {address}, served by {LEAVER}. Now {LEAVER} gets the label \
         version=v2, so that the selector no longer matches it."
    ));
    set_version(stage, "v2")?;
    page.check(
        &format!("{LEAVER} is no longer an endpoint"),
        same(&endpoints(&stage.explanation("backend-service")?), &vec![STAYER.to_owned()]),
    );
    page.check("the open connection continues with the same Pod", still_works(&open));
    page.say("New connections after the API has confirmed the change:");
    visit(stage, address).tell(stage, page, &[STAYER]);

    page.say(&format!("{LEAVER} gets the label version=v1 again:"));
    set_version(stage, "v1")?;
    visit(stage, address).tell(stage, page, &BACKENDS);
    page.check("the first connection is still open and works", still_works(&open));
    Ok(())
}

fn visit(stage: &Stage, address: SocketAddr) -> Visit {
    Visit::make(|_| ask_tcp(stage.host(FRONTEND), address, PATIENCE))
}

/// A connection served by this Pod.
fn connection_to(pod: &str, address: SocketAddr, stage: &Stage) -> Result<TcpStream, String> {
    for _ in 0..TRIES {
        let stream = connect(stage.host(FRONTEND), address, PATIENCE).map_err(|error| error.to_string())?;
        if greeting(&stream).map_err(|error| error.to_string())? == pod {
            return Ok(stream);
        }
    }
    Err(format!("none of {TRIES} connections to {address} reached {pod}"))
}

fn still_works(mut stream: &TcpStream) -> Checked {
    let sent = *b"are you still there?";
    let mut echo = [0; 20];
    let exchanged = stream.write_all(&sent).and_then(|()| stream.read_exact(&mut echo));
    exchanged.map_err(|error| error.to_string())?;
    same(&echo, &sent)
}

fn set_version(stage: &Stage, version: &str) -> Result<(), String> {
    let mut pod = stage.manifest("Pod", LEAVER)?.clone();
    let label = pod.pointer_mut("/metadata/labels/version").ok_or("the Pod has no label version")?;
    *label = Value::from(version);
    stage.apply(&[pod]).map_err(|failure| failure.to_string())
}
