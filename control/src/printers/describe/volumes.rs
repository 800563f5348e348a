//! `describeVolumes`: the kinds of volume in common use. The others, most of them drivers Kubernetes has dropped, have a name and no
//! more here; `get pod -o yaml` has all of it.

use k8s_openapi::api::core::v1::{CSIVolumeSource, DownwardAPIVolumeSource, ProjectedVolumeSource, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::pairs;
use super::Page;
use super::page::{MAX_ANNOTATION, shortened};
use super::quantity::{Amount, canonical};

/// What the API server puts where a token's lifetime is left out.
const TOKEN_SECONDS: i64 = 3600;

pub(super) fn describe(page: &mut Page, volumes: &[Volume]) {
    page.heading("Volumes:", volumes.is_empty());
    for volume in volumes {
        page.cells([&format!("  {}:", volume.name)]);
        if !of_the_node(page, volume) && !of_the_api(page, volume) && !of_storage(page, volume) {
            page.cells(["  <unknown>"]);
        }
    }
}

/// Directories of the node.
fn of_the_node(page: &mut Page, volume: &Volume) -> bool {
    if let Some(path) = &volume.host_path {
        page.line("    Type:", "HostPath (bare host directory volume)");
        page.line("    Path:", &path.path);
        page.line("    HostPathType:", path.type_.as_deref().unwrap_or("<none>"));
    } else if let Some(directory) = &volume.empty_dir {
        page.line("    Type:", "EmptyDir (a temporary directory that shares a pod's lifetime)");
        page.line("    Medium:", directory.medium.as_deref().unwrap_or_default());
        let limited = |limit: &&Quantity| Amount::of(limit).is_positive();
        let limit = directory.size_limit.as_ref().filter(limited);
        page.line("    SizeLimit:", limit.map_or_else(|| "<unset>".to_owned(), canonical));
    } else {
        return false;
    }
    true
}

/// What the API knows, as files.
fn of_the_api(page: &mut Page, volume: &Volume) -> bool {
    if let Some(secret) = &volume.secret {
        page.line("    Type:", "Secret (a volume populated by a Secret)");
        named(page, "    SecretName:", secret.secret_name.as_deref().unwrap_or_default(), secret.optional);
    } else if let Some(map) = &volume.config_map {
        page.line("    Type:", "ConfigMap (a volume populated by a ConfigMap)");
        named(page, "    Name:", &map.name, map.optional);
    } else if let Some(api) = &volume.downward_api {
        downward(page, api);
    } else if let Some(projected) = &volume.projected {
        project(page, projected);
    } else {
        return false;
    }
    true
}

/// What is kept elsewhere.
fn of_storage(page: &mut Page, volume: &Volume) -> bool {
    let read_only = |read_only: Option<bool>| read_only.unwrap_or_default().to_string();
    if let Some(nfs) = &volume.nfs {
        page.line("    Type:", "NFS (an NFS mount that lasts the lifetime of a pod)");
        page.line("    Server:", &nfs.server);
        page.line("    Path:", &nfs.path);
        page.line("    ReadOnly:", read_only(nfs.read_only));
    } else if let Some(claim) = &volume.persistent_volume_claim {
        let kind = "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)";
        page.line("    Type:", kind);
        page.line("    ClaimName:", &claim.claim_name);
        page.line("    ReadOnly:", read_only(claim.read_only));
    } else if let Some(csi) = &volume.csi {
        driven(page, csi);
    } else if let Some(image) = &volume.image {
        page.line("    Type:", "Image (a container image or OCI artifact)");
        page.line("    Reference:", image.reference.as_deref().unwrap_or_default());
        page.line("    PullPolicy:", image.pull_policy.as_deref().unwrap_or_default());
    } else {
        return false;
    }
    true
}

fn named(page: &mut Page, label: &str, name: &str, optional: Option<bool>) {
    page.line(label, name);
    page.line("    Optional:", optional.unwrap_or_default().to_string());
}

fn downward(page: &mut Page, api: &DownwardAPIVolumeSource) {
    page.line("    Type:", "DownwardAPI (a volume populated by information about the pod)");
    page.cells(["    Items:"]);
    for item in api.items.iter().flatten() {
        if let Some(field) = &item.field_ref {
            page.cells([&format!("      {} -> {}", field.field_path, item.path)]);
        }
        if let Some(resource) = &item.resource_field_ref {
            page.cells([&format!("      {} -> {}", resource.resource, item.path)]);
        }
    }
}

fn project(page: &mut Page, projected: &ProjectedVolumeSource) {
    page.line("    Type:", "Projected (a volume that contains injected data from multiple sources)");
    for source in projected.sources.iter().flatten() {
        if let Some(secret) = &source.secret {
            named(page, "    SecretName:", &secret.name, secret.optional);
        } else if source.downward_api.is_some() {
            page.line("    DownwardAPI:", "true");
        } else if let Some(map) = &source.config_map {
            named(page, "    ConfigMapName:", &map.name, map.optional);
        } else if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(TOKEN_SECONDS);
            page.line("    TokenExpirationSeconds:", seconds.to_string());
        }
    }
}

fn driven(page: &mut Page, csi: &CSIVolumeSource) {
    page.line("    Type:", "CSI (a Container Storage Interface (CSI) volume source)");
    page.line("    Driver:", &csi.driver);
    page.line("    FSType:", csi.fs_type.as_deref().unwrap_or_default());
    page.line("    ReadOnly:", csi.read_only.unwrap_or_default().to_string());
    let attributes = pairs(csi.volume_attributes.as_ref());
    if attributes.is_empty() {
        return page.line("    VolumeAttributes:", "<none>");
    }
    // kubectl indents each cell of these lines, not each line.
    for (index, attribute) in attributes.iter().enumerate() {
        let label = if index == 0 { "    VolumeAttributes:" } else { "        " };
        page.line(label, format!("    {}", shortened(attribute, MAX_ANNOTATION)));
    }
}
