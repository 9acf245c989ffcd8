//! The keys of Kubernetes: one row for each, with a value that is not the default, and what is refused.

use std::time::Duration;

use super::keys::Row;
use super::{check_told, completed};
use crate::config::{
    Discovery, Kubernetes, Pods, Port, Scheme, Services, Settings, Watched, parse,
};

macro_rules! services {
    ($rest:literal) => {
        concat!("kubernetes: { services: { namespaces: [team-a, team-b], ", $rest, " } }\n")
    };
}

macro_rules! pods {
    ($rest:literal) => {
        concat!(
            "servers: { everything: { discovery: { kubernetes: { service: mcp/search, ",
            $rest,
            " } } } }\n"
        )
    };
}

fn services(settings: &Settings) -> &Services {
    settings.kubernetes.services.as_ref().unwrap()
}

fn pods(settings: &Settings) -> &Pods {
    match &settings.servers[0].discovery {
        Some(Discovery::Kubernetes(pods)) => pods,
        other => panic!("{other:?}"),
    }
}

pub(super) const KUBERNETES: &[Row] = &[
    ("kubernetes", "kubernetes: {}\n", |s| s.kubernetes == Kubernetes::default()),
    ("kubernetes.api", "kubernetes: { api: 'HTTPS://K8S:6443/' }\n", |s| {
        s.kubernetes.cluster.api.as_deref() == Some("https://k8s:6443")
    }),
    ("kubernetes.api", "kubernetes: { api: http://127.0.0.1:8001 }\n", |s| {
        s.kubernetes.cluster.api.as_deref() == Some("http://127.0.0.1:8001")
    }),
    ("kubernetes.account", "kubernetes: { account: account }\n", |s| {
        let account = &s.kubernetes.cluster.account;
        account.is_absolute() && account.ends_with("account")
    }),
    ("kubernetes.services", services!(""), |s| {
        let services = services(s);
        services.path == "/services"
            && services.label == "toolgate.dev/server=true"
            && services.watch == Watched::Namespaces
            && services.drain == Duration::from_secs(25)
    }),
    ("kubernetes.services.namespaces", services!(""), |s| {
        services(s).namespaces == ["team-a", "team-b"]
    }),
    ("kubernetes.services.label", services!("label: mcp=yes"), |s| services(s).label == "mcp=yes"),
    ("kubernetes.services.watch", services!("watch: cluster"), |s| {
        services(s).watch == Watched::Cluster
    }),
    ("kubernetes.services.path", services!("path: /teams"), |s| services(s).path == "/teams"),
    ("kubernetes.services.path", services!("path: /"), |s| services(s).path.is_empty()),
    ("kubernetes.services.public_url", services!("public_url: 'https://a/b/'"), |s| {
        services(s).public_url.as_deref() == Some("https://a/b")
    }),
    ("kubernetes.services.drain", services!("drain: 5m"), |s| {
        services(s).drain == Duration::from_secs(300)
    }),
    ("servers.*.discovery.kubernetes", pods!(""), |s| {
        let pods = pods(s);
        pods.port.is_none()
            && pods.drain == Duration::from_secs(25)
            && pods.endpoint(8000).url == "http://search.mcp.svc:8000/mcp"
            && pods.endpoint(80).authority == "search.mcp.svc"
    }),
    ("servers.*.discovery.kubernetes.service", pods!(""), |s| {
        (pods(s).namespace.as_str(), pods(s).service.as_str()) == ("mcp", "search")
    }),
    ("servers.*.discovery.kubernetes.port", pods!("port: 8000"), |s| {
        pods(s).port == Some(Port::Number(8000))
    }),
    ("servers.*.discovery.kubernetes.port", pods!("port: mcp"), |s| {
        pods(s).port == Some(Port::Name("mcp".to_owned()))
    }),
    ("servers.*.discovery.kubernetes.scheme", pods!("scheme: https"), |s| {
        pods(s).scheme == Scheme::Https
    }),
    ("servers.*.discovery.kubernetes.path", pods!("path: /x?y"), |s| {
        pods(s).endpoint(1).path == "/x?y"
    }),
    ("servers.*.discovery.kubernetes.drain", pods!("drain: 1m"), |s| {
        pods(s).drain == Duration::from_secs(60)
    }),
    // The account of the whole gateway is that of every server, wherever it stands in the file.
    (
        "kubernetes.account",
        "servers: { everything: { discovery: { kubernetes: { service: a/b } } } }\nkubernetes: { account: /other }\n",
        |s| pods(s).cluster.account.as_os_str() == "/other",
    ),
];

#[test]
fn bad_ones_are_told() {
    check_told(&[
        (
            r#"kubernetes:
  api: http://10.0.0.1:8001
  services:
    namespaces: [Team, team-a, -x]
    label: yes
    watch: everywhere
    path: /a//b
servers:
  everything: { discovery: { kubernetes: { service: search, port: 70000, scheme: ws, path: mcp } } }
  b: { discovery: { kubernetes: { service: a/B, port: +1 } } }
"#,
            &[
                "2:8 the token would be sent in the clear (use https)",
                "4:18 this is no name of Kubernetes (use lower case letters, digits and -, at most 63 in all)",
                "4:32 this is no name of Kubernetes (use lower case letters, digits and -, at most 63 in all)",
                "5:12 this is not a label (write KEY=VALUE, such as toolgate.dev/server=true)",
                "6:12 this is not one of the words known here (write one of: namespaces, cluster)",
                "7:11 this is no beginning of a path (write / or one like /services)",
                "9:53 this is not a service (write NAMESPACE/NAME)",
                "9:67 this is no port (write a number from 1 to 65535, or the port's name)",
                "9:82 this is not one of the words known here (write one of: http, https)",
                "9:92 a path begins with / (write it like /mcp)",
                "10:44 this is not a service (write NAMESPACE/NAME)",
                "10:55 this is no port (write a number from 1 to 65535, or the port's name)",
            ],
        ),
        (
            "kubernetes: { api: https://a/b, services: { namespaces: [] } }\n",
            &[
                "1:20 the URL of an API server has no path here (remove the path)",
                "1:45 1 to 100 namespaces are needed here (write [team-a, team-b], or remove `services`)",
            ],
        ),
        (
            "identity: { jwt: [{ issuer: https://idp, jwks: { url: https://idp/keys } }] }\nroutes: [{ path: /mcp, server: everything, public_url: https://a/mcp }]\nkubernetes: { services: { namespaces: [a] } }\n",
            &[
                "3:15 no token could be meant for these routes: they have no public URL (add `public_url`, or `audiences` to each issuer of tokens)",
            ],
        ),
    ]);
}

#[test]
fn services_may_be_all_there_is() {
    let text = "listen: 127.0.0.1:1\nkubernetes: { services: { namespaces: [a] } }\n";
    let settings = parse(text, "t", &|_| None).unwrap();
    assert!(settings.servers.is_empty() && settings.routes.is_empty());
    let more = completed(text);
    assert_eq!(parse(&more, "t", &|_| None).unwrap().servers.len(), 1);
}
