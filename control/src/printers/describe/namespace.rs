//! `describeNamespace`, as kubectl has it of a server without resource quotas and limit ranges. It tells no Events of a Namespace.

use k8s_openapi::api::core::v1::Namespace;

use super::Page;

pub(super) fn describe(page: &mut Page, namespace: &Namespace) {
    page.name(&namespace.metadata);
    page.labels(&namespace.metadata);
    let status = namespace.status.clone().unwrap_or_default();
    page.line("Status:", status.phase.unwrap_or_default());
    let conditions = status.conditions.unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    page.cells(["Conditions:"]);
    page.cells(["  Type", "Status", "LastTransitionTime", "Reason", "Message"]);
    page.cells(["  ----", "------", "------------------", "------", "-------"]);
    for condition in &conditions {
        let since = page.date(condition.last_transition_time.as_ref());
        let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
        let kind = format!("  {}", condition.type_);
        page.cells([&kind, &condition.status, &since, reason.unwrap_or_default(), message.unwrap_or_default()]);
    }
}
