//! Tokens of the clouds that the gateway may run in.

use super::{Issuer, fails_closed, gateway, is_sent};
use crate::support::upstream::{Request, Upstream, plain};
use base64::Engine as _;

#[tokio::test]
async fn azure_is_asked_as_it_wants_to_be() {
    let (server, issuer) = (Upstream::mcp("a").await, Issuer::start(3600).await);
    let credentials = format!(
        "azure_managed_identity: {{ resource: \"api://files and more\", client_id: c-1, endpoint: \"{}\" }}",
        issuer.url()
    );
    let gateway = gateway(&[server.url()], &credentials).await;
    is_sent(&gateway, &server, "Bearer token-1").await;
    let asked = issuer.upstream.take();
    assert_eq!((asked[0].verb.as_str(), asked[0].field("metadata")), ("GET", Some("true")));
    assert_eq!(
        asked[0].path,
        "/token?api-version=2018-02-01&resource=api%3A%2F%2Ffiles%20and%20more&client_id=c-1"
    );
}

#[tokio::test]
async fn google_is_asked_as_it_wants_to_be_and_must_be_who_answers() {
    let server = Upstream::mcp("a").await;
    let account = "/computeMetadata/v1/instance/service-accounts/default";
    let issuer = Issuer::start(3600).await;
    let base = format!("http://{}", issuer.upstream.address);
    let access = format!("gcp_metadata: {{ scopes: [\"https://g/a\", b], endpoint: \"{base}\" }}");
    let by_access = gateway(&[server.url()], &access).await;
    is_sent(&by_access, &server, "Bearer token-1").await;
    let asked = issuer.upstream.take();
    assert_eq!(asked[0].field("metadata-flavor"), Some("Google"));
    assert_eq!(asked[0].path, format!("{account}/token?scopes=https%3A%2F%2Fg%2Fa%2Cb"));

    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"exp":4102444800}"#);
    let jwt = format!("e30.{claims}.c2ln");
    let token = jwt.clone();
    let google = Upstream::start(move |_: &Request| {
        vec![plain(200, "metadata-flavor: Google\r\n", token.as_bytes())]
    })
    .await;
    let identity = format!(
        "gcp_metadata: {{ audience: \"https://run\", endpoint: \"http://{}\" }}",
        google.address
    );
    let by_identity = gateway(&[server.url()], &identity).await;
    is_sent(&by_identity, &server, &format!("Bearer {jwt}")).await;
    let asked = google.take();
    assert_eq!(asked[0].path, format!("{account}/identity?audience=https%3A%2F%2Frun&format=full"));

    let impostor = Upstream::start(move |_: &Request| vec![plain(200, "", jwt.as_bytes())]).await;
    let identity = format!(
        "gcp_metadata: {{ audience: \"https://run\", endpoint: \"http://{}\" }}",
        impostor.address
    );
    let by_impostor = gateway(&[server.url()], &identity).await;
    fails_closed(&by_impostor, &server, 503, "credentials_unavailable").await;
}
