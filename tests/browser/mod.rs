//! The live page in a real Chromium: what it shows is what `explain`, `stats` and `trace` say.
//!
//! `.ci/run tools` installs Chromium, its driver, and axe-core, which looks for what keeps people from using a page. With
//! `UPDATE_DOCS=1` the pictures of the guides are made anew.

mod driver;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pollgate::lab::traffic::{ask_tcp, connect};
use serde_json::{Value, json};

use self::driver::Browser;
use crate::clients::support::Place;
use crate::live::process;
use crate::live::support::{CLUSTER_IP, NODE_PORT, PATIENCE, Talk, at, configuration, pod};
use crate::shared::harness::tests;
use crate::shared::needs::Need::{Browser as Chromium, Lab};
use crate::shared::needs::axe_core;

tests! {
    [Lab, Chromium] =>
        the_page_shows_what_explain_stats_and_trace_say,
        a_relabelled_pod_moves_within_a_second,
        what_would_move_is_shown_and_nothing_is_changed,
        a_killed_gateway_is_reported_and_the_page_recovers,
        ten_thousand_services_stay_responsive,
        everybody_can_use_every_view_in_light_and_dark;
}

const LISTEN: &str = "api: { listen: \"127.0.0.1:6443\", ";

/// The address that `pollgate ui` prints.
fn address(place: &Place) -> String {
    place.site.cli(&["ui"]).expect("an address").trim().to_owned()
}

/// The page without its token: the tab has it once it was opened.
fn view(place: &Place, fragment: &str) -> String {
    let address = address(place);
    let (page, _) = address.split_once('#').expect("a fragment");
    format!("{page}{fragment}")
}

/// A browser with the page open, and ticks coming.
fn opened<'a>(place: &'a Place) -> Browser<'a> {
    let browser = Browser::start(place.site.network.gateway());
    browser.open(&address(place));
    browser.until("document.querySelector('.pulse')?.dataset.state === 'live'");
    browser
}

fn show(browser: &Browser<'_>, fragment: &str) {
    browser.run(&format!("location.hash = {};", json!(fragment)));
}

/// The digits of a number as the page writes it.
fn number(text: &str) -> u64 {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
}

/// Neither an error of a script, nor anything that the page's policy forbids.
#[track_caller]
fn no_complaints(browser: &Browser<'_>) {
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

fn json_of(place: &Place, words: &[&str]) -> Value {
    let text = place.site.cli(&[words, &["-o", "json"]].concat()).expect("told");
    serde_json::from_str(&text).expect("JSON")
}

fn the_page_shows_what_explain_stats_and_trace_say() {
    let place = Place::new();
    let browser = opened(&place);
    // The token is in the tab's storage and nowhere else.
    assert_eq!(browser.value("location.hash"), json!("#/services"));
    assert_eq!(browser.value("sessionStorage.getItem('pollgate-token').length"), json!(64));
    assert_eq!(browser.value("location.search + document.cookie + localStorage.length"), json!("0"));

    // The list has every Service.
    let all = json_of(&place, &["get", "services", "-A"]);
    let count = all["items"].as_array().expect("a list").len();
    browser.until(&format!("document.querySelectorAll('.row').length === {count}"));
    assert_eq!(browser.text(".count"), format!("{count} Services"));
    let nobody = browser.text("[id='row-default/nobody']");
    assert!(nobody.contains("No endpoint is ready: connections are refused."), "{nobody}");

    // Traffic is on the list, on the Service, and on its endpoints.
    let client = place.site.host("frontend-app");
    show(&browser, "#/services/default/backend-service");
    let talks: Vec<Talk> = (0..8).map(|_| Talk::start(client, at(CLUSTER_IP))).collect();
    browser.until(
        "/k\\/s|\\d\\/s/.test(document.querySelector('[id=\"row-default/backend-service\"] .row-rate').textContent)",
    );
    browser.until("document.querySelectorAll('.wire.backend[data-flows]').length === 2");
    browser.until("document.querySelectorAll('.wire.port[data-flows]').length === 1");
    for talk in talks {
        talk.finish().expect("no block is lost");
    }
    place.site.at_rest(&[]);

    // Pods and sentences are those of explain.
    let explained = json_of(&place, &["explain", "service", "backend-service"]);
    let text = place.site.cli(&["explain", "service", "backend-service"]).expect("told");
    let pods = browser.run(
        "return [...document.querySelectorAll('.pod')].map((pod) => ({
            name: pod.querySelector('h3 .wrap').textContent, endpoint: pod.dataset.endpoint,
            reason: pod.querySelector('.why')?.textContent ?? ''}));",
    );
    let pods = pods.as_array().expect("Pods");
    let names = |list: &[Value]| -> Vec<String> {
        list.iter().map(|pod| pod["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(pods), names(explained["pods"].as_array().expect("Pods")));
    for pod in pods {
        let (name, reason) = (pod["name"].as_str().expect("a name"), pod["reason"].as_str().expect("text"));
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).expect("a line");
        let verdict = pod["endpoint"].as_str().expect("a word");
        assert!(line.contains(reason) && line.contains(&format!(" {verdict} ")), "{pod} and {line:?}");
    }
    let selector = browser.text("[data-node=service]");
    assert!(selector.contains("app=backend") && selector.contains("version=v1"), "{selector}");
    assert!(browser.text("[data-node=name]").replace('\n', "").contains("10.96.0.50"));

    // Counters are those of stats, once nothing moves.
    let packets = || {
        json_of(&place, &["stats"])["services"]["default/backend-service:api"]["packets"].as_u64().expect("a number")
    };
    let told = packets();
    assert!(told > 0);
    browser
        .until(&format!("document.querySelector('.fact:last-child b').textContent.replace(/\\D/g, '') === '{told}'"));
    assert_eq!(packets(), told);

    // Drops, with the sentence and the remedy.
    connect(client, at("10.96.0.70:80"), Duration::from_secs(5)).expect_err("refused");
    show(&browser, "#/drops");
    browser.until("document.querySelector('[data-reason=reject_no_endpoints]') !== null");
    let stats = json_of(&place, &["stats"]);
    for (reason, count) in stats["counters"]["drops"].as_object().expect("reasons") {
        let row = browser.text(&format!("[data-reason={reason}]"));
        assert_eq!(number(row.rsplit('\t').next().expect("a cell")), count.as_u64().expect("a number"), "{row}");
    }
    let row = browser.text("[data-reason=reject_no_endpoints]");
    assert!(row.contains("Confirm the selector and endpoint membership first"), "{row}");

    // The path of a packet, as trace has it, out and back.
    show(&browser, &format!("#/ask?from=192.168.50.100:40000&to={NODE_PORT}&protocol=tcp"));
    browser.until("document.querySelector('.way[data-lit]') !== null");
    let traced = json_of(&place, &["trace", "--from", "192.168.50.100:40000", "--to", NODE_PORT]);
    let shown = browser.run("return [...document.querySelectorAll('.step:not(.end)')].map((step) => [step.querySelector('.stage').textContent, step.querySelector('.decision').textContent]);");
    let steps: Vec<Value> = traced["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .map(|step| json!([step["stage"], step["decision"].as_str().expect("text").replace('`', "")]))
        .collect();
    assert_eq!(shown, json!(steps));
    let endpoint = traced["translated"]["to"].as_str().expect("an endpoint");
    let ways = browser.run("return [...document.querySelectorAll('.way')].map((way) => [...way.querySelectorAll('.end')].map((end) => [end.textContent, end.hasAttribute('data-changed')]));");
    let (client, gateway, chosen) = ("192.168.50.100:40000", NODE_PORT, "192.168.50.10:(chosen)");
    assert_eq!(
        ways,
        json!([
            [[client, false], [gateway, false], [chosen, true], [endpoint, true]],
            [[gateway, true], [client, true], [endpoint, false], [chosen, false]],
        ])
    );
    show(&browser, "#/ask?dns=backend-service.default.svc.cluster.local&type=A");
    browser.until("document.querySelector('table caption')?.textContent === 'Response NOERROR'");
    assert!(browser.text(".result").contains("10.96.0.50"));
    show(&browser, "#/ask?from=1.2.3.4&to=nonsense");
    browser.until("document.querySelector('[role=alert]')?.textContent.includes('expected ADDRESS:PORT')");

    // Workers: as many as there are, and all frames are theirs.
    show(&browser, "#/workers");
    browser.until("document.querySelectorAll('.worker').length === 2");
    // A request that is refused is one of the browser's complaints.
    let complaints = browser.complaints();
    assert!(complaints.len() == 1 && complaints[0].contains("400"), "{complaints:?}");

    // With the keyboard alone.
    show(&browser, "#/services");
    browser.until("document.querySelectorAll('.row').length > 1");
    browser.run("document.querySelector('select').value = 'name'; document.querySelector('select').dispatchEvent(new Event('change')); document.querySelector('.list').focus();");
    ["\u{E015}", "\u{E015}", "\u{E007}"].iter().for_each(|key| browser.press(key));
    browser.until("location.hash.startsWith('#/services/default/')");
    browser.until("document.querySelector('.row[aria-selected=true]').id === document.querySelector('.list').getAttribute('aria-activedescendant')");
    no_complaints(&browser);
}

fn a_relabelled_pod_moves_within_a_second() {
    let place = Place::new();
    let browser = opened(&place);
    show(&browser, "#/services/default/backend-service");
    browser.until("document.querySelectorAll('.pod[data-endpoint=yes]').length === 2");
    let mut times = Vec::new();
    for round in 0..6 {
        let (version, wanted) = if round % 2 == 0 { ("v2", "no") } else { ("v1", "yes") };
        // The page notes the moment itself; a driver that asks again and again would be slower.
        browser.run(&format!(
            "window.moved = null;
             const seen = () => document.querySelector('[data-node=\"pod backend-2\"]')?.dataset.endpoint === '{wanted}';
             const look = setInterval(() => {{ if (seen()) {{ window.moved = Date.now(); clearInterval(look); }} }}, 10);"
        ));
        let before = browser.value("Date.now()").as_i64().expect("a time");
        place.site.apply(&pod("backend-2", "10.244.2.15", "backend", version).to_string());
        browser.until("window.moved !== null");
        times.push(browser.value("window.moved").as_i64().expect("a time") - before);
    }
    println!("from before the apply to the changed page: {times:?} ms");
    times.sort_unstable();
    assert!(times[times.len() / 2] < 1000, "{times:?} ms");
    let pod = browser.text("[data-node='pod backend-2']");
    assert!(pod.contains("50 % of new flows"), "{pod}");
    // Who left, because of what, and how long it took.
    show(&browser, "#/events?q=backend-service");
    let rows = "[...document.querySelectorAll('.events tbody tr')].map((row) => row.innerText.replace(/\\s+/g, ' '))";
    browser.until(&format!("{rows}.length >= 7"));
    let told = browser.value(rows);
    let newest: Vec<&str> = told.as_array().expect("rows").iter().filter_map(Value::as_str).take(2).collect();
    for (row, moved, change) in
        [(newest[0], "+ backend-2 10.244.2.15:8080", "v2 → v1"), (newest[1], "− backend-2 10.244.2.15:8080", "v1 → v2")]
    {
        let cause = format!(" default/backend-service {moved} Pod backend-2: label version: {change} ");
        assert!(row.contains(&cause) && (row.ends_with(" ms") || row.ends_with(" µs")), "{row:?} and {cause:?}");
    }
    no_complaints(&browser);
}

fn what_would_move_is_shown_and_nothing_is_changed() {
    let place = Place::new();
    let browser = opened(&place);
    show(&browser, "#/guide/default/backend-service");
    browser.until("document.querySelectorAll('.lesson').length === 9");
    // The commands' output is the commands' output.
    let explained = place.site.cli(&["explain", "service", "backend-service"]).expect("told");
    browser.until("[...document.querySelectorAll('pre')].every((output) => output.textContent.length > 9)");
    let outputs = browser.run("return [...document.querySelectorAll('pre')].map((output) => output.textContent);");
    assert_eq!(outputs[0], json!(explained.trim_end()));
    let columns = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let services = place.site.cli(&["get", "services", "backend-service"]).expect("told");
    // But for the age.
    let cells = |text: &str| text.lines().map(|line| columns(line)[..5].to_vec()).collect::<Vec<_>>();
    assert_eq!(cells(outputs[1].as_str().expect("text")), cells(&services));
    assert!(browser.text("#lesson-dns").contains("NOERROR: A 10.96.0.50"));
    assert_eq!(browser.text("tr[data-this] th"), "ClusterIPthis one");

    let objects = || {
        place
            .site
            .cli(&["get", "pods,services,endpointslices", "-A", "-o", "yaml"])
            .or_else(|_| place.site.cli(&["get", "pods", "-A", "-o", "yaml"]))
            .expect("told")
    };
    let before = objects();
    let ask = |change: &str, more: &str| {
        browser.run(&format!(
            "document.querySelector('.whatif-result').replaceChildren();
             const form = document.querySelector('#lesson-whatif form');
             form.elements.change.value = '{change}'; form.elements.change.dispatchEvent(new Event('change'));
             {more}
             form.requestSubmit();"
        ));
        browser.until("document.querySelector('.whatif-result h3') !== null");
        assert!(browser.text(".whatif-result").ends_with("Nothing was changed."));
        browser.text(".whatif-result").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let told = ask(
        "label",
        "form.elements.pod.value = 'backend-2'; form.elements.key.value = 'version'; form.elements.value.value = 'v2';",
    );
    assert!(
        told.starts_with(
            "This would move default/backend-service − backend-2 10.244.2.15:8080 Pod backend-2: label version: v1 → v2"
        ),
        "{told}"
    );
    let told = ask(
        "label",
        "form.elements.pod.value = 'backend-canary' ; form.elements.pod.selectedIndex < 0 && (form.elements.pod.value = 'backend-v2'); form.elements.value.value = 'v1';",
    );
    assert!(told.contains("default/backend-service + backend-"), "{told}");
    let told = ask("ready", "form.elements.pod.value = 'backend-1'; form.elements.ready.value = 'False';");
    assert!(told.contains("− backend-1 10.244.1.10:8080") && told.contains("Ready: True → False"), "{told}");
    let told = ask("port", "form.elements.port.value = 'nosuch';");
    assert!(told.contains("− backend-1 10.244.1.10:8080") && told.contains("− backend-2 10.244.2.15:8080"), "{told}");
    assert_eq!(objects(), before);
    no_complaints(&browser);
}

fn a_killed_gateway_is_reported_and_the_page_recovers() {
    let place = process::Place::new();
    let config = configuration(place.path(), "dns: { upstreams: [] }\n").replace("api: { ", LISTEN);
    place.write("gateway.yaml", &config);
    let gateway = place.start();
    place.apply_guide();
    let browser = Browser::start(place.network.gateway());
    browser.open(place.done(&["ui"]).trim());
    browser.until("document.querySelectorAll('.row').length > 3");
    show(&browser, "#/services/default/backend-service");
    browser.until("document.querySelectorAll('.pod').length > 3");

    gateway.signal(libc::SIGKILL);
    gateway.wait();
    browser.until("document.querySelector('.pulse').dataset.state === 'gone'");
    browser
        .until("/does not respond: .* What you see is \\d.* old/.test(document.getElementById('banner').textContent)");
    assert_eq!(browser.value("document.body.hasAttribute('data-stale')"), json!(true));
    assert!(browser.text(".lanes").contains("backend-1"), "what is known stays");

    let gateway = place.start();
    browser.until("document.querySelector('.pulse').dataset.state === 'live'");
    browser.until("document.getElementById('banner').hidden && !document.body.hasAttribute('data-stale')");
    // What is new since comes, without a reload.
    place.done(&["delete", "pod", "backend-1"]);
    browser.until("document.querySelectorAll('.pod[data-endpoint=yes]').length === 1");
    // Requests that found no gateway are the browser's only complaints.
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|line| line.contains("net::ERR_")), "{complaints:?}");

    // One that stands still is not taken for one that has nothing to report.
    gateway.signal(libc::SIGSTOP);
    browser.until("document.getElementById('banner').textContent.startsWith('No news for')");
    gateway.signal(libc::SIGCONT);
    browser.until("document.getElementById('banner').hidden");
}

fn ten_thousand_services_stay_responsive() {
    const SERVICES: usize = 10_000;
    let place = Place::new();
    let services = |from: usize| -> String {
        (from..from + 2500)
            .map(|n| {
                format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{ name: many-{n:05}, namespace: ns-{} }}\n\
                     spec: {{ selector: {{ app: many-{n} }}, ports: [{{ port: 80 }}] }}\n---\n",
                    n % 20
                )
            })
            .collect()
    };
    (0..SERVICES).step_by(2500).for_each(|from| place.site.apply(&services(from)));
    let start = Instant::now();
    let browser = opened(&place);
    browser.until("/^10.?0\\d\\d Services$/.test(document.querySelector('.count').textContent)");
    let complete = start.elapsed();
    let rows = browser.value("document.querySelectorAll('.row').length").as_u64().expect("a number");
    assert!(rows < 60, "{rows} elements for what can be seen");

    // From a key to the drawn result, and scrolling through everything; the longest time without a frame.
    let search = browser.run(
        "const box = document.querySelector('input[type=search]');
         const start = performance.now();
         box.value = 'many-04321'; box.dispatchEvent(new Event('input'));
         document.body.offsetHeight;
         return [performance.now() - start, document.querySelectorAll('.row').length, document.querySelector('.count').textContent];",
    );
    let milliseconds = search[0].as_f64().expect("a number");
    assert_eq!(search[1], json!(1), "{search}");
    let longest = browser.run(
        "const box = document.querySelector('input[type=search]'); box.value = ''; box.dispatchEvent(new Event('input'));
         const list = document.querySelector('.list');
         return new Promise((done) => {
             let [last, longest, frames] = [performance.now(), 0, 0];
             const frame = (now) => {
                 longest = Math.max(longest, now - last); last = now;
                 list.scrollTop = list.scrollHeight * frames / 180;
                 if (++frames > 180) done(longest); else requestAnimationFrame(frame);
             };
             requestAnimationFrame(frame);
         });",
    );
    let longest = longest.as_f64().expect("a number");
    let cpu = api_cpu(Duration::from_secs(10));
    println!(
        "{SERVICES} Services: the list is complete {complete:.1?} after the browser's start; a search takes {milliseconds:.0} ms; \
         the longest time without a frame while scrolling is {longest:.0} ms; the API's thread uses {:.2} % of a CPU",
        cpu * 100.0
    );
    assert!(milliseconds < 500.0, "{milliseconds} ms for a search");
    assert!(longest < 1000.0, "{longest} ms without a frame");
    // Of a build without optimisation.
    assert!(cpu < 0.02, "{cpu} of a CPU");
    no_complaints(&browser);
}

/// The share of a CPU that this process's API thread uses.
fn api_cpu(time: Duration) -> f64 {
    let ticks = || -> f64 {
        let threads = fs::read_dir("/proc/self/task").expect("threads").filter_map(Result::ok);
        let of = |path: &Path| -> Option<f64> {
            let name = fs::read_to_string(path.join("comm")).ok()?;
            let stat = fs::read_to_string(path.join("stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
            let time = |at: usize| fields[at].parse::<f64>().ok();
            name.starts_with("api").then_some(time(11)? + time(12)?)
        };
        threads.filter_map(|thread| of(&thread.path())).sum()
    };
    let before = ticks();
    std::thread::sleep(time);
    // A hundred to a second, on every Linux.
    (ticks() - before) / 100.0 / time.as_secs_f64()
}

/// Each view, with something to show, and what to wait for.
const VIEWS: [(&str, &str, &str); 7] = [
    ("services", "#/services/default/backend-service", "document.querySelectorAll('.pod').length > 3"),
    ("empty", "#/services/default/nobody", "document.querySelector('.note') !== null"),
    ("ask", "#/ask?from=192.168.50.100&to=192.168.50.10:30081", "document.querySelector('.way[data-lit]') !== null"),
    ("drops", "#/drops?all=1", "document.querySelectorAll('tr[data-reason]').length > 20"),
    ("events", "#/events", "document.querySelectorAll('.events tbody tr').length > 0"),
    ("workers", "#/workers", "document.querySelectorAll('.worker').length === 2"),
    (
        "guide",
        "#/guide/default/backend-service",
        "document.querySelectorAll('pre').length === 3 && [...document.querySelectorAll('pre')].every((output) => output.textContent.length > 9)",
    ),
];

fn everybody_can_use_every_view_in_light_and_dark() {
    let place = Place::new();
    let axe = fs::read_to_string(axe_core()).expect("axe-core");
    let client = place.site.host("frontend-app");
    let talks: Vec<Talk> = (0..6).map(|_| Talk::start(client, at(CLUSTER_IP))).collect();
    ask_tcp(place.site.host("outside-client"), at(NODE_PORT), PATIENCE).expect("an answer");
    connect(client, at("10.96.0.70:80"), Duration::from_secs(5)).expect_err("refused");
    let browser = opened(&place);
    for scheme in ["light", "dark"] {
        browser.prefer(scheme, "reduce");
        for (name, fragment, ready) in VIEWS {
            browser.open(&view(&place, fragment));
            browser.until("document.querySelector('.pulse')?.dataset.state === 'live'");
            browser.until(ready);
            let found = browser.run(&format!(
                "{axe}; return axe.run(document, {{ resultTypes: ['violations', 'incomplete'] }}).then((result) =>
                    result.violations.map((rule) => `${{rule.id}}: ${{rule.help}}: ${{rule.nodes.map((node) => node.html).join(' | ')}}`));"
            ));
            assert_eq!(found, json!([]), "{name}, {scheme}");
            assert_eq!(
                browser.value("document.getAnimations().filter((moving) => moving.playState === 'running').length"),
                json!(0),
                "{name}: nothing moves for who does not want it"
            );
        }
    }
    no_complaints(&browser);
    pictures(&place, &browser);
    for talk in talks {
        talk.finish().expect("no block is lost");
    }
}

/// The pictures of the guides, if they are asked for.
fn pictures(place: &Place, browser: &Browser<'_>) {
    if std::env::var_os("UPDATE_DOCS").is_none() {
        return;
    }
    browser.prefer("light", "no-preference");
    browser.open(&view(place, VIEWS[0].1));
    browser.until(VIEWS[0].2);
    // A line of the last half a minute.
    browser.until("document.querySelector('.one-head .spark-line').getAttribute('d')?.split('L').length > 30");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/page.png");
    fs::write(path, browser.picture()).expect("written");
}
