//! A configuration that changes while calls run: by signal, by file, by Kubernetes' links, by the admin API.

use crate::support::client::{self, Client};
use crate::support::gateway::{Folder, Gateway, free_address};
use crate::support::message::Message;
use crate::support::operator::{self, Operator};
use crate::support::upstream::{Request, Step, Upstream, event, events_head, mcp};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// A configuration that includes a file, which holds all servers and routes.
struct Live {
    gateway: Gateway,
    folder: Folder,
}

fn route(upstream: &Upstream) -> String {
    format!(
        "servers: {{ one: {{ endpoints: [{}] }} }}\nroutes: [{{ path: /mcp, server: one }}]\n",
        upstream.url()
    )
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("written");
    fs::rename(&beside, path).expect("renamed");
}

impl Live {
    async fn start(sections: &str, more: &str) -> Self {
        let folder = Folder::new();
        let included = folder.write("team.yaml", sections);
        let yaml = format!("include: [{}]\n{more}", included.display());
        Self { gateway: Gateway::start(&yaml).await, folder }
    }

    fn write(&self, sections: &str) {
        replace(&self.folder.path().join("team.yaml"), sections);
    }

    /// Who answers a call now.
    async fn name(&self) -> String {
        let call = Message::call(1, "echo").bytes();
        let answer = client::exchange(self.gateway.address, &call).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned()
    }

    async fn answered_by(&self, name: &str) {
        let began = Instant::now();
        while self.name().await != name {
            let log = self.gateway.diagnostics();
            assert!(began.elapsed() < Duration::from_secs(15), "never {name}:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn told(&self, words: &str) {
        let began = Instant::now();
        while !self.gateway.diagnostics().contains(words) {
            let log = self.gateway.diagnostics();
            assert!(began.elapsed() < Duration::from_secs(15), "no {words} in\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_broken_one_does_not() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let live = Live::start(&route(&one), "").await;
    live.answered_by("one").await;
    live.write(&route(&two));
    live.answered_by("two").await;
    live.told(&format!("endpoint {} of one added", two.url())).await;
    let hash = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with("toolgate_config_hash "));
        line.expect("a hash").to_owned()
    };
    let good = live.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 1"#).await;

    live.write(&route(&one).replace("endpoints", "endpionts"));
    live.told("endpionts").await;
    live.told("configuration refused, the one before it stays").await;
    let bad = live.gateway.metrics_with(r#"toolgate_reloads_total{outcome="refused"} "#).await;
    assert_eq!(hash(&good), hash(&bad));
    assert_eq!(live.name().await, "two");
    fs::remove_file(live.folder.path().join("team.yaml")).expect("removed");
    live.told("no file matches").await;
    assert_eq!(live.name().await, "two");

    live.write(&route(&one));
    live.answered_by("one").await;
    let good = live.gateway.metrics_with(r#"toolgate_reloads_total{outcome="installed"} 2"#).await;
    assert_ne!(hash(&good), hash(&bad));
}

#[tokio::test]
async fn a_hangup_reloads() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let live = Live::start(&route(&one), "").await;
    live.answered_by("one").await;
    let began = Instant::now();
    while !live.gateway.diagnostics().contains("nothing has changed") {
        assert!(began.elapsed() < Duration::from_secs(15), "{}", live.gateway.diagnostics());
        // The first one may come before anybody listens; it ends nothing.
        live.gateway.signal("HUP");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    live.write(&route(&two));
    live.gateway.signal("HUP");
    live.answered_by("two").await;
    let log = live.gateway.diagnostics();
    assert!(log.contains("configuration reloaded"), "{log}");
}

#[tokio::test]
async fn the_links_of_kubernetes_are_followed() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let folder = Folder::new();
    let mount = folder.path().join("mount");
    let version = |name: &str, upstream: &Upstream| {
        let directory = mount.join(name);
        fs::create_dir_all(&directory).expect("a folder");
        fs::write(directory.join("team.yaml"), route(upstream)).expect("written");
        let link = mount.join("..data_tmp");
        symlink(name, &link).expect("a link");
        fs::rename(&link, mount.join("..data")).expect("swapped");
    };
    version("..2026_1", &one);
    symlink("..data/team.yaml", mount.join("team.yaml")).expect("a link");
    let yaml = format!("include: [\"{}/*.yaml\"]\n", mount.display());
    let live = Live { gateway: Gateway::start(&yaml).await, folder };
    live.answered_by("one").await;
    version("..2026_2", &two);
    fs::remove_dir_all(mount.join("..2026_1")).expect("removed");
    live.answered_by("two").await;
}

#[tokio::test]
async fn what_only_a_new_process_can_take_is_refused_whole() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let admin = free_address();
    let live = Live::start(&route(&one), &operator::section(admin)).await;
    let operator = Operator::new(admin);
    live.answered_by("one").await;
    let config = live.gateway.folder().join("toolgate.yaml");
    let before = fs::read_to_string(&config).expect("the configuration");
    let moved = format!("{before}runtime: {{ threads: 77 }}\n");
    replace(&config, &moved);
    live.write(&route(&two));
    let answer = operator.ask("POST", "/v1/reload", &json!({})).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("runtime.threads"), "{}", answer.text());
    assert_eq!(live.name().await, "one");
    replace(&config, &before);
    let answer = operator.ask("POST", "/v1/reload", &json!({})).await;
    let changed = (answer.status, answer.json()["changed"].clone());
    assert!(answer.status == 200, "{changed:?}");
    live.answered_by("two").await;
    live.write("servers: [");
    let answer = operator.ask("POST", "/v1/reload", &json!({})).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("team.yaml:"), "{}", answer.text());
    assert_eq!(live.name().await, "two");
}

#[tokio::test]
async fn a_change_that_only_a_dry_run_has_seen_still_takes_effect() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let admin = free_address();
    let live = Live::start(&route(&one), &operator::section(admin)).await;
    let operator = Operator::new(admin);
    live.answered_by("one").await;
    live.write(&route(&two));
    let looked = operator.ask("POST", "/v1/reload?dry_run=true", &json!({})).await;
    assert_eq!((looked.status, &looked.json()["dry_run"]), (200, &json!(true)));
    let bad = json!({ "endpoints": ["http://h:0/"] });
    assert_eq!(operator.ask("PUT", "/v1/servers/new", &bad).await.status, 422);
    assert_eq!(operator.ask("PUT", "/v1/servers/new?dry_run=true", &bad).await.status, 422);
    live.answered_by("two").await;
}

#[tokio::test]
async fn calls_do_not_fail_while_the_configuration_changes() {
    let (one, two) = (Upstream::mcp("one").await, Upstream::mcp("two").await);
    let admin = free_address();
    let live = Live::start(&route(&one), &operator::section(admin)).await;
    let operator = Operator::new(admin);
    live.answered_by("one").await;
    let mut connection = Client::connect(live.gateway.address).await;
    let mut answered = [0, 0];
    let nothing = json!({});
    for round in 0..20 {
        let next = [&two, &one][round % 2];
        live.write(&route(next));
        let reload = operator.ask("POST", "/v1/reload", &nothing);
        let calls = async {
            for id in 0..10 {
                connection.send(&Message::call(id, "echo").bytes()).await;
                let answer = connection.answer().await;
                assert_eq!(answer.status, 200, "round {round}: {}", answer.text());
                let name = &answer.json()["result"]["content"][0]["text"];
                answered[usize::from(name == "two")] += 1;
            }
        };
        let (reload, ()) = futures::join!(reload, calls);
        assert_eq!(reload.status, 200, "{}", reload.text());
    }
    assert!(answered.iter().all(|count| *count > 20), "{answered:?}");
}

#[tokio::test]
async fn open_streams_are_told_and_end_when_their_route_leads_elsewhere() {
    let listening = |request: &Request| match request.method().as_str() {
        "subscriptions/listen" => {
            vec![events_head(""), event("{}"), Step::Wait(Arc::new(Semaphore::new(0)))]
        }
        _ => mcp("a", request),
    };
    let (a, b) = (Upstream::start(listening).await, Upstream::mcp("b").await);
    let sections = |server: &str| {
        let (a, b) = (a.url(), b.url());
        format!(
            "servers: {{ a: {{ endpoints: [{a}] }}, b: {{ endpoints: [{b}] }} }}\nroutes: [{{ path: /mcp, server: {server} }}]\n"
        )
    };
    let live = Live::start(&sections("a"), "").await;
    let address = live.gateway.address;
    let session = client::exchange(address, &Message::initialize().bytes()).await.session();
    let mut legacy = Client::connect(address).await;
    legacy.send(&Message::stream(&session).bytes()).await;
    legacy.body_after_head("data: {}\n\n").await;
    let asked = json!({ "notifications": { "toolsListChanged": true } });
    let mut modern = Client::connect(address).await;
    modern.send(&Message::modern("L", "subscriptions/listen", asked).bytes()).await;
    modern.body_after_head("data: {}\n\n").await;
    live.write(&sections("b"));
    live.gateway.signal("HUP");
    let told = legacy.body_with("retry: ").await;
    for list in ["tools", "prompts", "resources"] {
        assert!(told.contains(&format!("notifications/{list}/list_changed")), "{told}");
    }
    assert!(legacy.part().await.is_none() && legacy.body_is_whole());
    let told = modern.body_with(r#""resultType":"complete""#).await;
    assert!(told.contains("notifications/tools/list_changed"), "{told}");
    assert!(!told.contains("notifications/prompts/list_changed"), "{told}");
    assert!(told.contains(r#""id":"L""#) && told.contains(r#"subscriptionId":"L""#), "{told}");
    assert!(modern.part().await.is_none() && modern.body_is_whole());
    // The session goes where its route leads now.
    let call = Message::legacy_call(3, "echo", &session).bytes();
    let answer = client::exchange(address, &call).await;
    assert_eq!(answer.json()["result"]["content"][0]["text"], "b", "{}", answer.text());
}
