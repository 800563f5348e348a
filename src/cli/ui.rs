//! `pollgate ui`: the address of the live page.
//!
//! The token is in the address's fragment, which browsers send to no server. The page keeps it for its tab alone.

use std::io::Write;

use pollgate_control::api::{KUBECONFIG_PATH, UI_PATH};

use super::args::UiArgs;
use super::client::{Client, ClientError};
use crate::failure::Failure;

/// `pollgate ui`
///
/// # Errors
/// If the gateway cannot be reached, or has no `api.listen`.
pub fn ui(args: &UiArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let socket = &args.connection.socket;
    let kubeconfig = Client::new(socket)?.get(KUBECONFIG_PATH).map_err(|error| match error {
        ClientError::Refused(status) if status.is_not_found() => Failure::refused(format!(
            "error: {}. Or forward a port of this host to the socket: `ssh -L 6443:{} HOST`, and open \
             http://localhost:6443{UI_PATH}/ (whoever can connect to the forwarded port may then change the gateway)",
            status.message,
            socket.display()
        )),
        other => other.into(),
    })?;
    let text = |pointer: &str| kubeconfig.pointer(pointer).and_then(|value| value.as_str());
    let (server, token) = (text("/clusters/0/cluster/server"), text("/users/0/user/token"));
    let (Some(server), Some(token)) = (server, token) else {
        return Err(Failure::refused(
            "error: the gateway's kubeconfig has no server or no token: use a pollgate of its version",
        ));
    };
    Ok(writeln!(out, "{server}{UI_PATH}/#token={token}")?)
}
