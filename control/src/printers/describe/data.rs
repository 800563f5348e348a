//! `describeConfigMap` and `describeSecret`: of a Secret only how long its values are.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::page::Page;

pub(super) fn describe_config_map(page: &mut Page, map: &ConfigMap) {
    page.identity(&map.metadata);
    page.cells(["\nData\n===="]);
    for (key, value) in map.data.iter().flatten() {
        page.cells([&format!("{key}:\n----\n{value}\n")]);
    }
    page.cells(["\nBinaryData\n===="]);
    for (key, value) in map.binary_data.iter().flatten() {
        page.cells([&format!("{key}: {} bytes", value.0.len())]);
    }
    page.cells([""]);
}

pub(super) fn describe_secret(page: &mut Page, secret: &Secret) {
    page.identity(&secret.metadata);
    page.cells([""]);
    page.line("Type:", secret.type_.as_deref().unwrap_or_default());
    page.cells(["\nData\n===="]);
    for (key, value) in secret.data.iter().flatten() {
        page.line(&format!("{key}:"), format!("{} bytes", value.0.len()));
    }
}
