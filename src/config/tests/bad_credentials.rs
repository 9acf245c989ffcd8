//! Bad values of credentials, and everything that is told about each; never the secret.

use super::{Row, check_told};

const CREDENTIALS: &[Row] = &[
    (
        "servers: { everything: { endpoints: [http://a/], credentials: {} } }\n",
        &[
            "1:52 nothing says where the credential comes from (write `value:`, `token_file:`, `oauth_client:`, `token_exchange:`, `azure_managed_identity:` or `gcp_metadata:`)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { value: a, gcp_metadata: { audience: b } } } }\n",
        &[
            "1:77 the credential comes from two places (a server gets one credential; remove the others)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { value: 'a b ' } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { value: a, scheme: Bearer } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: Host, value: a } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: Mcp-Session-Id, value: a } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: Transfer-Encoding, value: a } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: 'a b', value: a } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { token_file: /nowhere/token } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: http://idp.example.com/t, client_id: a, client_secret: b, scopes: ['a b'] } } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { client_id: a } } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: {} } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: { audience: a, scopes: [] } } } }\n",
        &["x"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { azure_managed_identity: { resource: a, endpoint: http://10.0.0.1/ } } } }\n",
        &["x"],
    ),
];

#[test]
fn bad_credentials_are_told_without_them() {
    check_told(CREDENTIALS);
}
