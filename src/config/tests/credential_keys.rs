//! The keys of what servers get and are told: one row for each, with a value that is not the default.

use super::keys::Row;
use crate::config::{
    AzureIdentity, ClientAuth, CredentialSource, Credentials, GcpMetadata, GcpToken,
    IdentityHeaders, Server, Settings, TokenExchange, TokenRequest, WithoutToken,
};

fn server(settings: &Settings) -> &Server {
    &settings.servers[0]
}

fn credentials(settings: &Settings) -> &Credentials {
    server(settings).credentials.as_ref().unwrap()
}

fn oauth(settings: &Settings) -> &TokenRequest {
    match &credentials(settings).source {
        CredentialSource::OauthClient(request) => request,
        CredentialSource::TokenExchange(exchange) => &exchange.request,
        other => panic!("{other:?}"),
    }
}

fn exchange(settings: &Settings) -> &TokenExchange {
    match &credentials(settings).source {
        CredentialSource::TokenExchange(exchange) => exchange,
        other => panic!("{other:?}"),
    }
}

fn azure(settings: &Settings) -> &AzureIdentity {
    match &credentials(settings).source {
        CredentialSource::Azure(identity) => identity,
        other => panic!("{other:?}"),
    }
}

fn gcp(settings: &Settings) -> &GcpMetadata {
    match &credentials(settings).source {
        CredentialSource::Gcp(metadata) => metadata,
        other => panic!("{other:?}"),
    }
}

pub(super) const CREDENTIALS: &[Row] = &[
    (
        "servers.*.credentials",
        "servers: { everything: { endpoints: [http://a/], credentials: { value: a } } }\n",
        |s| credentials(s).header == "authorization",
    ),
    (
        "servers.*.credentials.header",
        "servers: { everything: { endpoints: [http://a/], credentials: { header: X-Api-Key, token_file: keys.yaml } } }\n",
        |s| credentials(s).header == "x-api-key" && credentials(s).scheme.is_none(),
    ),
    (
        "servers.*.credentials.scheme",
        "servers: { everything: { endpoints: [http://a/], credentials: { scheme: Token, token_file: keys.yaml } } }\n",
        |s| credentials(s).scheme.as_deref() == Some("Token"),
    ),
    (
        "servers.*.credentials.scheme",
        "servers: { everything: { endpoints: [http://a/], credentials: { scheme: none, token_file: keys.yaml } } }\n",
        |s| credentials(s).scheme.is_none(),
    ),
    (
        "servers.*.credentials.value",
        "servers: { everything: { endpoints: [http://a/], credentials: { value: 'Bearer ${SHORT}' } } }\n",
        |s| matches!(&credentials(s).source, CredentialSource::Value(value) if value.expose() == "Bearer hunter2" && !format!("{s:?}").contains("hunter2")),
    ),
    (
        "servers.*.credentials.token_file",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_file: keys.yaml } } }\n",
        |s| {
            matches!(&credentials(s).source, CredentialSource::TokenFile(path) if path.is_file())
                && credentials(s).scheme.as_deref() == Some("Bearer")
        },
    ),
    (
        "servers.*.credentials.oauth_client",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).scopes.is_empty() && oauth(s).audience.is_none(),
    ),
    (
        "servers.*.credentials.oauth_client.token_url",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).token_url.ends_with("/t"),
    ),
    (
        "servers.*.credentials.oauth_client.client_id",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).client_id == "me",
    ),
    (
        "servers.*.credentials.oauth_client.client_secret",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).client_secret.expose() == "hunter2" && !format!("{s:?}").contains("hunter2"),
    ),
    (
        "servers.*.credentials.oauth_client.auth",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}' , auth: post } } } }\n",
        |s| oauth(s).auth == ClientAuth::Post,
    ),
    (
        "servers.*.credentials.oauth_client.scopes",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}' , scopes: [a, 'b:c'] } } } }\n",
        |s| oauth(s).scopes == ["a", "b:c"],
    ),
    (
        "servers.*.credentials.oauth_client.audience",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}' , audience: x } } } }\n",
        |s| oauth(s).audience.as_deref() == Some("x"),
    ),
    (
        "servers.*.credentials.oauth_client.resource",
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: 'https://i/t', client_id: me, client_secret: '${SHORT}' , resource: 'HTTPS://R/m' } } } }\n",
        |s| oauth(s).resource.as_deref() == Some("https://r/m"),
    ),
    (
        "servers.*.credentials.token_exchange",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).scopes.is_empty() && oauth(s).audience.is_none(),
    ),
    (
        "servers.*.credentials.token_exchange.token_url",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).token_url.ends_with("/t"),
    ),
    (
        "servers.*.credentials.token_exchange.client_id",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).client_id == "me",
    ),
    (
        "servers.*.credentials.token_exchange.client_secret",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}'  } } } }\n",
        |s| oauth(s).client_secret.expose() == "hunter2" && !format!("{s:?}").contains("hunter2"),
    ),
    (
        "servers.*.credentials.token_exchange.auth",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , auth: post } } } }\n",
        |s| oauth(s).auth == ClientAuth::Post,
    ),
    (
        "servers.*.credentials.token_exchange.scopes",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , scopes: [a, 'b:c'] } } } }\n",
        |s| oauth(s).scopes == ["a", "b:c"],
    ),
    (
        "servers.*.credentials.token_exchange.audience",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , audience: x } } } }\n",
        |s| oauth(s).audience.as_deref() == Some("x"),
    ),
    (
        "servers.*.credentials.token_exchange.resource",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , resource: 'HTTPS://R/m' } } } }\n",
        |s| oauth(s).resource.as_deref() == Some("https://r/m"),
    ),
    (
        "servers.*.credentials.token_exchange.subject_token_type",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , subject_token_type: 'urn:x' } } } }\n",
        |s| exchange(s).subject_token_type == "urn:x",
    ),
    (
        "servers.*.credentials.token_exchange.requested_token_type",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , requested_token_type: 'urn:x' } } } }\n",
        |s| exchange(s).requested_token_type.as_deref() == Some("urn:x"),
    ),
    (
        "servers.*.credentials.token_exchange.actor_token_file",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , actor_token_file: keys.yaml } } } }\n",
        |s| exchange(s).actor_token_file.as_ref().is_some_and(|path| path.is_file()),
    ),
    (
        "servers.*.credentials.token_exchange.otherwise",
        "servers: { everything: { endpoints: [http://a/], credentials: { token_exchange: { token_url: 'http://[::1]:1/t', client_id: me, client_secret: '${SHORT}' , otherwise: client_credentials } } } }\n",
        |s| exchange(s).otherwise == WithoutToken::ClientCredentials,
    ),
    (
        "servers.*.credentials.azure_managed_identity",
        "servers: { everything: { endpoints: [http://a/], credentials: { azure_managed_identity: { resource: 'api://x'  } } } }\n",
        |s| azure(s).endpoint.starts_with("http://169.254.169.254/") && azure(s).secret.is_none(),
    ),
    (
        "servers.*.credentials.azure_managed_identity.resource",
        "servers: { everything: { endpoints: [http://a/], credentials: { azure_managed_identity: { resource: 'api://x'  } } } }\n",
        |s| azure(s).resource == "api://x",
    ),
    (
        "servers.*.credentials.azure_managed_identity.client_id",
        "servers: { everything: { endpoints: [http://a/], credentials: { azure_managed_identity: { resource: 'api://x' , client_id: c } } } }\n",
        |s| azure(s).client_id.as_deref() == Some("c"),
    ),
    (
        "servers.*.credentials.azure_managed_identity.endpoint",
        "servers: { everything: { endpoints: [http://a/], credentials: { azure_managed_identity: { resource: 'api://x' , endpoint: 'http://127.0.0.1:1/t' } } } }\n",
        |s| azure(s).endpoint == "http://127.0.0.1:1/t",
    ),
    (
        "servers.*.credentials.gcp_metadata",
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: { scopes: [] } } } }\n",
        |s| gcp(s).endpoint == "http://metadata.google.internal",
    ),
    (
        "servers.*.credentials.gcp_metadata.audience",
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: { audience: a } } } }\n",
        |s| gcp(s).wanted == GcpToken::Identity("a".to_owned()),
    ),
    (
        "servers.*.credentials.gcp_metadata.scopes",
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: { scopes: [a] } } } }\n",
        |s| gcp(s).wanted == GcpToken::Access(vec!["a".to_owned()]),
    ),
    (
        "servers.*.credentials.gcp_metadata.endpoint",
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: { audience: a, endpoint: 'http://127.0.0.1:1/' } } } }\n",
        |s| gcp(s).endpoint == "http://127.0.0.1:1",
    ),
    (
        "servers.*.identity_headers",
        "servers: { everything: { endpoints: [http://a/], identity_headers: on } }\n",
        |s| server(s).identity_headers == IdentityHeaders::On,
    ),
];
