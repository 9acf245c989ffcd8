//! Fifty reloads: weights, an endpoint that comes and goes, limits, and now and then a file that must be refused.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admin::Reload;
use crate::fleet::Fleet;
use crate::load::Load;
use crate::scenarios::operators;
use crate::verdict::Findings;
use crate::yaml::{self, Endpoint};

const RELOADS: u32 = 50;
/// One in so many files is broken.
const BROKEN_EVERY: u32 = 10;
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// What one version of the configuration says.
struct Version {
    endpoints: Vec<Endpoint>,
    body_bytes_max: &'static str,
}

pub(crate) async fn run(
    fleet: &mut Fleet,
    load: &Arc<Load>,
    findings: &mut Findings,
) -> io::Result<()> {
    // The gateways were started without it.
    let known = fleet.endpoints().len();
    fleet.add_replica().await?;
    let mut version =
        Version { endpoints: fleet.endpoints()[..known].to_vec(), body_bytes_max: "4MiB" };
    for round in 1..=RELOADS {
        load.until(f64::from(round) / f64::from(RELOADS + 1)).await;
        if round % BROKEN_EVERY == 0 {
            refuse(fleet, &version, findings).await?;
            continue;
        }
        match round % 3 {
            0 => version.endpoints[0].weight = 1 + round % 5,
            1 if version.endpoints.len() == known => {
                version.endpoints.push(fleet.endpoints()[known]);
            }
            1 => version.endpoints.truncate(known),
            _ => version.body_bytes_max = if round % 2 == 0 { "1MiB" } else { "2MiB" },
        }
        for gateway in &fleet.gateways {
            replace(&gateway.config, &text(fleet, gateway, &version))?;
            gateway.process.signal("HUP")?;
        }
        until_seen(fleet, &version).await?;
    }
    findings.said.push(format!("{RELOADS} reloads, {} of broken files", RELOADS / BROKEN_EVERY));
    Ok(())
}

/// Gives the gateways a file they cannot use, half written as editors leave it, and then the good one again.
async fn refuse(fleet: &Fleet, version: &Version, findings: &mut Findings) -> io::Result<()> {
    for (gateway, operator) in fleet.gateways.iter().zip(operators(fleet)) {
        let good = text(fleet, gateway, version);
        let half = &good[..good.len() / 2];
        fs::write(&gateway.config, format!("{half}\nunknown_key: [\n"))?;
        gateway.process.signal("HUP")?;
        if operator.reload().await? != Reload::Refused {
            findings.missed.push(format!("{} took a broken file", gateway.name));
        }
        if !is_seen(&operator.endpoints().await?, version) {
            findings.missed.push(format!("{} was changed by a broken file", gateway.name));
        }
        replace(&gateway.config, &good)?;
        gateway.process.signal("HUP")?;
    }
    until_seen(fleet, version).await
}

fn text(fleet: &Fleet, gateway: &crate::fleet::Gateway, version: &Version) -> String {
    let mut wants = fleet.wants.clone();
    wants.route.push(format!("body_bytes_max: {}", version.body_bytes_max));
    yaml::gateway(&gateway.addresses, &gateway.state, &wants, &version.endpoints)
}

/// Replaces a file in one step, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    fs::rename(beside, path)
}

async fn until_seen(fleet: &Fleet, version: &Version) -> io::Result<()> {
    let began = Instant::now();
    for (gateway, operator) in fleet.gateways.iter().zip(operators(fleet)) {
        while !is_seen(&operator.endpoints().await?, version) {
            if began.elapsed() > SEEN_WITHIN {
                let limit = SEEN_WITHIN.as_secs();
                let text = format!("{} does not show a reload after {limit} s", gateway.name);
                return Err(io::Error::other(text));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

/// Whether the admin API lists exactly these endpoints with these weights; one that still lets go of its sessions may be listed too.
fn is_seen(listed: &[serde_json::Value], version: &Version) -> bool {
    let listed: Vec<_> = listed.iter().filter(|endpoint| endpoint["state"] != "draining").collect();
    let found = |wanted: &Endpoint| {
        let url = wanted.url();
        listed.iter().any(|endpoint| endpoint["url"] == url && endpoint["weight"] == wanted.weight)
    };
    listed.len() == version.endpoints.len() && version.endpoints.iter().all(found)
}
