//! What tests share.
pub(crate) mod rmcp_client;
