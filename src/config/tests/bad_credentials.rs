//! Bad values of credentials, and everything that is told about each; never the secret.

use super::{Row, check_told};

const CREDENTIALS: &[Row] = &[
    (
        "servers: { everything: { endpoints: [http://a/], credentials: {} } }\n",
        &[
            "1:50 nothing says where the credential comes from (write `value:`, `token_file:`, `oauth_client:`, `token_exchange:`, `azure_managed_identity:` or `gcp_metadata:`)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { value: a, gcp_metadata: { audience: b } } } }\n",
        &[
            "1:75 the credential comes from two places (a server gets one credential; remove the others)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { value: 'a b ' } } }\n",
        &[
            "1:72 this cannot be the value of a header field (use visible characters of ASCII without spaces around them, at most 8192)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { value: a, scheme: Bearer } } }\n",
        &[
            "1:75 a value is sent as it is, without a scheme (write it into `value`, and remove the scheme)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: Host, value: a } } }\n",
        &[
            "1:73 the gateway writes this header field itself (use Authorization or a field of your own, such as X-Api-Key)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: Mcp-Session-Id, value: a } } }\n",
        &[
            "1:73 the gateway writes this header field itself (use Authorization or a field of your own, such as X-Api-Key)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: Transfer-Encoding, value: a } } }\n",
        &[
            "1:73 the gateway writes this header field itself (use Authorization or a field of your own, such as X-Api-Key)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { header: 'a b', value: a } } }\n",
        &["1:73 this is not the name of a header field (write it like Authorization or X-Api-Key)"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { token_file: /nowhere/token } } }\n",
        &["1:77 there is no file /nowhere/token (paths are relative to the file that names them)"],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { token_url: http://idp.example.com/t, client_id: a, client_secret: b, scopes: ['a b'] } } } }\n",
        &[
            "1:92 secrets are not sent over plain http (use https)",
            "1:159 a scope has no spaces (write one per list item)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { oauth_client: { client_id: a } } } }\n",
        &[
            "1:65 the key `token_url` is missing (add `token_url:`)",
            "1:65 the key `client_secret` is missing (add `client_secret:`)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: {} } } }\n",
        &[
            "1:65 nothing says which token is wanted (add `audience:` for an identity token, or `scopes:` for an access token)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { gcp_metadata: { audience: a, scopes: [] } } } }\n",
        &[
            "1:94 `audience` and `scopes` are both given (an identity token has an audience, an access token has scopes)",
        ],
    ),
    (
        "servers: { everything: { endpoints: [http://a/], credentials: { azure_managed_identity: { resource: a, endpoint: http://10.0.0.1/ } } } }\n",
        &[
            "1:114 this is not the address of a metadata server (use https, this machine, or 169.254.169.254)",
        ],
    ),
];

#[test]
fn bad_credentials_are_told_without_them() {
    check_told(CREDENTIALS);
}
