//! `describeContainerEnvFrom` and `describeContainerEnvVars`.

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod, ResourceFieldSelector};

use super::Page;
use super::quantity::Amount;
use super::resources::{amounts, is_huge_pages, limits_of, requests_of};

pub(super) fn describe(page: &mut Page, pod: &Pod, container: &Container) {
    let sources = container.env_from.as_deref().unwrap_or_default();
    if !sources.is_empty() {
        page.cells(["    Environment Variables from:"]);
    }
    sources.iter().for_each(|source| source_line(page, source));
    let variables = container.env.as_deref().unwrap_or_default();
    page.heading("    Environment:", variables.is_empty());
    for variable in variables {
        match &variable.value_from {
            None => value_lines(page, variable),
            Some(from) => reference_line(page, pod, container, &format!("      {}:", variable.name), from),
        }
    }
}

fn source_line(page: &mut Page, source: &EnvFromSource) {
    let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
        (Some(map), _) => ("ConfigMap", map.name.as_str(), map.optional),
        (None, Some(secret)) => ("Secret", secret.name.as_str(), secret.optional),
        (None, None) => ("", "", None),
    };
    let text = match source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => format!("{kind} with prefix '{prefix}'"),
        None => kind.to_owned(),
    };
    page.cells([&format!("      {name}"), &text, &is_optional(optional)]);
}

/// A value of several lines stands below itself.
fn value_lines(page: &mut Page, variable: &EnvVar) {
    for (index, line) in variable.value.as_deref().unwrap_or_default().split('\n').enumerate() {
        match index {
            0 => page.line(&format!("      {}:", variable.name), line),
            _ => page.line("      ", line),
        }
    }
}

fn reference_line(page: &mut Page, pod: &Pod, container: &Container, label: &str, from: &EnvVarSource) {
    if let Some(field) = &from.field_ref {
        let version = field.api_version.as_deref().unwrap_or_default();
        page.line(label, format!("{} ({version}:{})", field_value(pod, &field.field_path), field.field_path));
    } else if let Some(resource) = &from.resource_field_ref {
        page.line(label, format!("{} ({})", resource_value(container, resource), resource.resource));
    } else if let Some(secret) = &from.secret_key_ref {
        let text = format!("<set to the key '{}' in secret '{}'>", secret.key, secret.name);
        page.cells([label, &text, &is_optional(secret.optional)]);
    } else if let Some(map) = &from.config_map_key_ref {
        let text = format!("<set to the key '{}' of config map '{}'>", map.key, map.name);
        page.cells([label, &text, &is_optional(map.optional)]);
    }
}

fn is_optional(optional: Option<bool>) -> String {
    format!("Optional: {}", optional.unwrap_or_default())
}

/// kubectl, which has none of the server's conversions, knows these two fields only.
fn field_value<'a>(pod: &'a Pod, path: &str) -> &'a str {
    let value = match path {
        "metadata.name" => &pod.metadata.name,
        "metadata.namespace" => &pod.metadata.namespace,
        _ => &None,
    };
    value.as_deref().unwrap_or_default()
}

/// In units of the divisor, of which the last may be begun only.
fn resource_value(container: &Container, selector: &ResourceFieldSelector) -> String {
    let (quantities, name) = match selector.resource.split_once('.') {
        Some(("limits", name)) => (limits_of(container), name),
        Some(("requests", name)) => (requests_of(container), name),
        _ => return String::new(),
    };
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
        return String::new();
    }
    let amount = amounts(quantities).get(name).copied().unwrap_or_default();
    let one = || Amount::parse("1").unwrap_or_default();
    let divisor = selector.divisor.as_ref().map(Amount::of).filter(|divisor| !divisor.is_zero()).unwrap_or_else(one);
    let count = match name {
        "cpu" => quotient(amount.thousandths(), divisor.thousandths()),
        _ => quotient(amount.whole(), divisor.whole()),
    };
    match count {
        0 if matches!(selector.resource.as_str(), "limits.cpu" | "limits.memory") => "node allocatable".to_owned(),
        count => count.to_string(),
    }
}

fn quotient(amount: i128, divisor: i128) -> i128 {
    amount / divisor + (amount % divisor).signum()
}
