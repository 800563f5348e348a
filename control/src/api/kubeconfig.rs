//! `GET /apis/pollgate.io/v1alpha1/kubeconfig`: what a client of the HTTPS listener needs, its token included.
//!
//! Served over the Unix socket only: a client that may open it has full access anyway. The listener itself does not have the
//! path, so that a leaked token cannot be used to get the next one.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use super::https::Listener;
use super::identity::Identities;
use super::shared::Api;
use super::status::Status;

/// The path of the kubeconfig.
pub const KUBECONFIG_PATH: &str = "/apis/pollgate.io/v1alpha1/kubeconfig";

/// The name of cluster, user and context in it.
const NAME: &str = "pollgate";

/// Where clients connect, and what they are shown.
#[derive(Clone)]
pub(super) struct Server {
    address: SocketAddr,
    identities: Arc<Identities>,
}

impl From<&Listener> for Server {
    fn from(listener: &Listener) -> Server {
        Server { address: listener.address, identities: Arc::clone(&listener.identities) }
    }
}

/// `None`: there is no listener.
pub(super) fn router(server: Option<Server>) -> Router<Api> {
    let told = async move || server.map(|server| Json(of(&server))).ok_or_else(Status::no_listener);
    Router::new().route(KUBECONFIG_PATH, get(told))
}

/// For clients of the listener.
fn of(Server { address, identities }: &Server) -> Value {
    let identity = identities.current();
    let ca = ByteString(identity.ca.clone().into_bytes());
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": {
            "server": format!("https://{address}"), "certificate-authority-data": ca,
        }}],
        "users": [{"name": NAME, "user": {"token": identity.token.reveal()}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
    })
}
