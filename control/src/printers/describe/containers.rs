//! `describeContainers`.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStateTerminated, ContainerStatus, EphemeralContainer, Pod,
    PodSpec, PodStatus, VolumeMount,
};

use super::{Page, environment, probe, resources};

/// The containers of a Pod, of each sort in turn.
pub(super) fn describe(page: &mut Page, pod: &Pod, spec: &PodSpec, status: &PodStatus) {
    let starting = spec.init_containers.as_deref().unwrap_or_default();
    if !starting.is_empty() {
        page.cells(["Init Containers:"]);
        describe_all(page, pod, starting, status.init_container_statuses.as_deref());
    }
    page.cells([if spec.containers.is_empty() { "Containers: <none>" } else { "Containers:" }]);
    describe_all(page, pod, &spec.containers, status.container_statuses.as_deref());
    let visiting: Vec<Container> = spec.ephemeral_containers.iter().flatten().map(in_common).collect();
    if !visiting.is_empty() {
        page.cells(["Ephemeral Containers:"]);
        describe_all(page, pod, &visiting, status.ephemeral_container_statuses.as_deref());
    }
}

/// What an ephemeral container has in common with others: all but the name of the one it looks into.
fn in_common(container: &EphemeralContainer) -> Container {
    serde_json::to_value(container).and_then(serde_json::from_value).unwrap_or_default()
}

fn describe_all(page: &mut Page, pod: &Pod, containers: &[Container], statuses: Option<&[ContainerStatus]>) {
    for container in containers {
        // Of two statuses with one name the last counts, as in the map kubectl puts them into.
        let status = statuses.unwrap_or_default().iter().rfind(|status| status.name == container.name);
        identity(page, container, status);
        command(page, container);
        if let Some(status) = status {
            describe_status(page, status);
        }
        resources::describe(page, &container.resources.clone().unwrap_or_default(), "    ");
        probe::describe(page, container);
        environment::describe(page, pod, container);
        mounts(page, container);
    }
}

fn identity(page: &mut Page, container: &Container, status: Option<&ContainerStatus>) {
    page.cells([&format!("  {}:", container.name)]);
    if let Some(status) = status {
        page.line("    Container ID:", status.container_id.as_deref().unwrap_or_default());
    }
    page.line("    Image:", container.image.as_deref().unwrap_or_default());
    if let Some(status) = status {
        page.line("    Image ID:", &status.image_id);
    }
    let ports = container.ports.as_deref().unwrap_or_default();
    port_line(page, "    Port:", "    Ports:", ports, |port| port.container_port);
    port_line(page, "    Host Port:", "    Host Ports:", ports, |port| port.host_port.unwrap_or_default());
    let profile = container.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    if let Some(profile) = profile {
        page.line("    SeccompProfile:", &profile.type_);
        page.maybe("      LocalhostProfile:", profile.localhost_profile.as_deref());
    }
}

fn port_line(
    page: &mut Page,
    one: &str,
    several: &str,
    ports: &[ContainerPort],
    number: impl Fn(&ContainerPort) -> i32,
) {
    let text = |port: &ContainerPort| {
        let text = format!("{}/{}", number(port), port.protocol.as_deref().unwrap_or_default());
        match port.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => format!("{text} ({name})"),
            None => text,
        }
    };
    match ports {
        [] => page.line(one, "<none>"),
        [port] => page.line(one, text(port)),
        ports => page.line(several, ports.iter().map(text).collect::<Vec<_>>().join(", ")),
    }
}

fn command(page: &mut Page, container: &Container) {
    for (label, words) in [("    Command:", &container.command), ("    Args:", &container.args)] {
        let words = words.as_deref().unwrap_or_default();
        if !words.is_empty() {
            page.cells([label]);
        }
        for line in words.iter().flat_map(|word| word.split('\n')) {
            page.cells([&format!("      {line}")]);
        }
    }
}

fn describe_status(page: &mut Page, status: &ContainerStatus) {
    state(page, "    State:", &status.state.clone().unwrap_or_default());
    if let Some(last) = status.last_state.as_ref().filter(|last| last.terminated.is_some()) {
        state(page, "    Last State:", last);
    }
    page.line("    Ready:", if status.ready { "True" } else { "False" });
    page.line("    Restart Count:", status.restart_count.to_string());
}

fn state(page: &mut Page, label: &str, state: &ContainerState) {
    if let Some(running) = &state.running {
        page.line(label, "Running");
        page.line("      Started:", page.date(running.started_at.as_ref()));
        return;
    }
    match (&state.waiting, &state.terminated) {
        (None, Some(end)) => terminated(page, label, end),
        (waiting, _) => {
            page.line(label, "Waiting");
            page.maybe("      Reason:", waiting.as_ref().and_then(|waiting| waiting.reason.as_deref()));
        }
    }
}

fn terminated(page: &mut Page, label: &str, end: &ContainerStateTerminated) {
    page.line(label, "Terminated");
    page.maybe("      Reason:", end.reason.as_deref());
    page.maybe("      Message:", end.message.as_deref());
    page.line("      Exit Code:", end.exit_code.to_string());
    if let Some(signal) = end.signal.filter(|signal| *signal > 0) {
        page.line("      Signal:", signal.to_string());
    }
    page.line("      Started:", page.date(end.started_at.as_ref()));
    page.line("      Finished:", page.date(end.finished_at.as_ref()));
}

fn mounts(page: &mut Page, container: &Container) {
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    mounts.sort_by_key(|mount| &mount.mount_path);
    page.heading("    Mounts:", mounts.is_empty());
    for mount in &mounts {
        page.cells([&format!("      {} from {} ({})", mount.mount_path, mount.name, flags(mount))]);
    }
    let mut devices: Vec<_> = container.volume_devices.iter().flatten().collect();
    devices.sort_by_key(|device| &device.device_path);
    if !devices.is_empty() {
        // kubectl says here once more whether there are mounts.
        page.heading("    Devices:", mounts.is_empty());
    }
    for device in devices {
        page.cells([&format!("      {} from {}", device.device_path, device.name)]);
    }
}

fn flags(mount: &VolumeMount) -> Cow<'static, str> {
    let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
    match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
        Some(path) => format!("{mode},path={path:?}").into(),
        None => mode.into(),
    }
}
