//! Credentials that a cloud gives to the machine or app that the gateway runs on:
//! `credentials.azure_managed_identity` and `credentials.gcp_metadata`.

use super::credentials::{check_scopes, is_loopback};
use super::place::Place;
use super::reading::Reading;
use super::secret::Secret;
use super::shape::{At, Field, shape};
use super::url::{Scheme, Url};

/// The metadata server of Azure's machines.
const AZURE_ENDPOINT: &str = "http://169.254.169.254/metadata/identity/oauth2/token";
/// The metadata server of Google's machines.
const GCP_ENDPOINT: &str = "http://metadata.google.internal";

/// A managed identity of Azure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureIdentity {
    /// Who the token is for.
    pub resource: String,
    /// Which of several identities is meant.
    pub client_id: Option<String>,
    /// Who is asked.
    pub endpoint: String,
    /// What App Service wants to see from its own processes; a machine's metadata server wants none.
    pub secret: Option<Secret>,
}

/// An identity of Google's cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpMetadata {
    /// What is asked for.
    pub wanted: GcpToken,
    /// Who is asked: scheme and authority.
    pub endpoint: String,
}

/// The two kinds of tokens that Google's metadata server gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GcpToken {
    /// An identity token for this audience.
    Identity(String),
    /// An access token with these scopes; none means those of the machine.
    Access(Vec<String>),
}

shape! {
    /// A token of Azure for the machine or app that the gateway runs on.
    AzureIdentityText {
        /// Who the token is for.
        required resource: String,
        /// Which of several identities is meant.
        optional client_id: String,
        /// Who is asked; by default App Service where its variables are set, else the machine's metadata server.
        optional endpoint: Url,
    }
}

shape! {
    /// A token of Google's cloud for the machine that the gateway runs on.
    GcpMetadataText {
        /// Who an identity token is for; one of audience and scopes.
        optional audience: String,
        /// What an access token is to allow; [] means what the machine may do.
        optional scopes: Vec<Field<String>>,
        /// Who is asked, without a path; the machine's metadata server by default.
        optional endpoint: Url,
    }
}

impl AzureIdentityText {
    pub(super) fn check(self, reading: &mut Reading<'_>) -> Option<AzureIdentity> {
        let Self { resource, client_id, endpoint } = self;
        let app_service = || {
            let endpoint = (reading.environment)("IDENTITY_ENDPOINT")?;
            Some((endpoint, Secret::from((reading.environment)("IDENTITY_HEADER")?)))
        };
        let (endpoint, secret) = match endpoint {
            Field::Given(endpoint) => (metadata(&endpoint, reading)?, None),
            Field::Faulty => return None,
            Field::Absent => match app_service() {
                Some((endpoint, secret)) => (endpoint, Some(secret)),
                None => (AZURE_ENDPOINT.to_owned(), None),
            },
        };
        let (resource, client_id) = (resource.value()?, client_id.value());
        Some(AzureIdentity { resource, client_id, endpoint, secret })
    }
}

impl GcpMetadataText {
    pub(super) fn check(self, head: Place, reading: &mut Reading<'_>) -> Option<GcpMetadata> {
        let Self { audience, scopes, endpoint } = self;
        let wanted = match (audience, scopes) {
            (Field::Given(audience), Field::Absent) => GcpToken::Identity(audience.value),
            (Field::Absent, scopes @ Field::Given(_)) => {
                GcpToken::Access(check_scopes(scopes, reading))
            }
            (Field::Absent, Field::Absent) => {
                let hint =
                    "add `audience:` for an identity token, or `scopes:` for an access token";
                reading.problem(head, "nothing says which token is wanted", hint);
                return None;
            }
            (Field::Given(_), Field::Given(scopes)) => {
                let hint = "an identity token has an audience, an access token has scopes";
                reading.problem(scopes.head, "`audience` and `scopes` are both given", hint);
                return None;
            }
            _ => return None,
        };
        let endpoint = match endpoint {
            Field::Given(endpoint) => {
                metadata(&endpoint, reading)?.trim_end_matches('/').to_owned()
            }
            Field::Absent => GCP_ENDPOINT.to_owned(),
            Field::Faulty => return None,
        };
        Some(GcpMetadata { wanted, endpoint })
    }
}

/// A machine's metadata server speaks plain HTTP, at an address that leaves the machine's network never.
fn metadata(url: &At<Url>, reading: &mut Reading<'_>) -> Option<String> {
    let At { place, head: _, value } = url;
    let is_link_local =
        value.host.parse().is_ok_and(|address: std::net::Ipv4Addr| address.is_link_local());
    if value.scheme == Scheme::Http
        && !is_loopback(&value.host)
        && !is_link_local
        && value.host != "metadata.google.internal"
    {
        let hint = "use https, this machine, or 169.254.169.254";
        reading.problem(*place, "this is not the address of a metadata server", hint);
        return None;
    }
    Some(value.with_path(&value.path_and_query))
}
