//! `describeNamespace`, as kubectl prints it for a server without resource quotas and limit ranges. It prints no Events.

use k8s_openapi::api::core::v1::Namespace;

use super::page::Page;

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::describe;
    use super::super::tests::{now, object};

    #[test]
    fn a_namespace_reads_as_kubectl_describes_it() {
        let namespace = object(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "web"}},
            "status": {"phase": "Active", "conditions": [
                {"type": "Full", "status": "False", "lastTransitionTime": "2023-11-14T22:13:20Z", "reason": "Empty", "message": "nothing in it"}]}}),
        );
        let expected = "\
Name:         shop
Labels:       team=web
Annotations:  <none>
Status:       Active
Conditions:
  Type  Status  LastTransitionTime               Reason  Message
  ----  ------  ------------------               ------  -------
  Full  False   Tue, 14 Nov 2023 22:13:20 +0000  Empty   nothing in it
";
        assert_eq!(describe(&namespace, &[], None, &now()), expected);
    }
}
