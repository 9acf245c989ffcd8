//! What was registered for good: servers in one file of `state_dir`, endpoints in another, both JSON.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{self, Beside, Problems, Settings};
use crate::upstream::{Fleet, Registered, Source, now_ms};

/// The registered servers and their routes: JSON is YAML, so the configuration reads it like its own.
const SERVERS: &str = "registered.json";
/// The same while it is checked.
const SERVERS_CANDIDATE: &str = "registered.new.json";
const ENDPOINTS: &str = "endpoints.json";

/// Everything that was registered for good.
pub(super) struct Registrations {
    directory: PathBuf,
    servers: Mutex<Servers>,
    endpoints: Mutex<Endpoints>,
}

/// The file of servers, in the shape of an included file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Servers {
    servers: Map<String, Value>,
    routes: Vec<Value>,
}

/// The file of endpoints, by server and the name each was given.
type Endpoints = BTreeMap<String, BTreeMap<String, KeptEndpoint>>;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptEndpoint {
    pub(super) url: String,
    pub(super) weight: u32,
}

/// Reads a configuration with what was registered for good in its `state_dir`.
///
/// # Errors
/// Every problem found, never only the first.
pub fn load(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, Problems> {
    let settings = config::load(path, environment)?;
    let registered = settings.state_dir.join(SERVERS);
    match registered.exists() {
        true => config::load_with(
            path,
            environment,
            Beside { registered: Some(&registered), ..Beside::default() },
        ),
        false => Ok(settings),
    }
}

impl Servers {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.servers.contains_key(name)
    }

    /// The same with this server in place of one of its name.
    pub(super) fn with(mut self, name: &str, server: Value, routes: Vec<Value>) -> Self {
        self.remove(name);
        self.servers.insert(name.to_owned(), server);
        self.routes.extend(routes);
        self
    }

    /// The same without this server.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.remove(name);
        self
    }

    /// Each server by its name, with its routes.
    pub(super) fn each(&self) -> impl Iterator<Item = (&str, &Value, Vec<&Value>)> {
        self.servers.iter().map(|(name, server)| {
            let own = self.routes.iter().filter(|route| route["server"] == **name);
            (&**name, server, own.collect())
        })
    }

    fn remove(&mut self, name: &str) {
        self.servers.remove(name);
        self.routes.retain(|route| route["server"] != name);
    }
}

impl Registrations {
    /// Reads both files, which need not exist.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: state_dir.to_path_buf(),
            servers: Mutex::new(read(&state_dir.join(SERVERS))?),
            endpoints: Mutex::new(read(&state_dir.join(ENDPOINTS))?),
        })
    }

    /// The file of registered servers, for the configuration to read.
    pub(super) fn servers_file(&self) -> PathBuf {
        self.directory.join(SERVERS)
    }

    /// Whether this is one of the files that only the gateway itself writes.
    pub(super) fn owns(&self, file: &Path) -> bool {
        [SERVERS, SERVERS_CANDIDATE].iter().any(|name| self.directory.join(name) == file)
    }

    pub(super) fn servers(&self) -> Servers {
        self.servers.lock().clone()
    }

    /// Writes other servers beside those that are registered, to be checked before they count.
    pub(super) fn propose(&self, servers: &Servers) -> io::Result<PathBuf> {
        let candidate = self.directory.join(SERVERS_CANDIDATE);
        write(&candidate, servers)?;
        Ok(candidate)
    }

    /// Lets the proposed servers count.
    pub(super) fn accept(&self, servers: Servers) -> io::Result<()> {
        put_in_place(&self.directory.join(SERVERS_CANDIDATE), &self.servers_file())?;
        *self.servers.lock() = servers;
        Ok(())
    }

    /// Forgets what was proposed.
    pub(super) fn dismiss(&self) {
        if let Err(error) = fs::remove_file(self.directory.join(SERVERS_CANDIDATE)) {
            tracing::debug!(%error, "no proposal to remove");
        }
    }

    /// Every endpoint that is kept, with its server and its name.
    pub(super) fn endpoints(&self) -> Vec<(String, String, KeptEndpoint)> {
        let all = self.endpoints.lock();
        let each = all.iter().flat_map(|(server, own)| {
            own.iter().map(|(name, kept)| (server.clone(), name.clone(), kept.clone()))
        });
        each.collect()
    }

    /// The endpoint that is kept under this name.
    pub(super) fn endpoint(&self, server: &str, name: &str) -> Option<KeptEndpoint> {
        self.endpoints.lock().get(server)?.get(name).cloned()
    }

    /// Keeps an endpoint for good, in place of one of its name; `None` forgets it.
    pub(super) fn keep(
        &self,
        server: &str,
        name: &str,
        endpoint: Option<KeptEndpoint>,
    ) -> io::Result<()> {
        self.change_endpoints(|all| {
            let own = all.entry(server.to_owned()).or_default();
            match endpoint {
                Some(endpoint) => own.insert(name.to_owned(), endpoint),
                None => own.remove(name),
            };
        })
    }

    /// Forgets all endpoints of a server.
    pub(super) fn forget_server(&self, server: &str) -> io::Result<()> {
        self.change_endpoints(|all| {
            all.remove(server);
        })
    }

    /// The file is written first: what is not kept must not be promised.
    fn change_endpoints(&self, change: impl FnOnce(&mut Endpoints)) -> io::Result<()> {
        let mut endpoints = self.endpoints.lock();
        let mut changed = endpoints.clone();
        change(&mut changed);
        changed.retain(|_, own| !own.is_empty());
        if changed == *endpoints {
            return Ok(());
        }
        let file = self.directory.join(ENDPOINTS);
        let candidate = self.directory.join("endpoints.new.json");
        write(&candidate, &changed)?;
        put_in_place(&candidate, &file)?;
        *endpoints = changed;
        Ok(())
    }

    /// Registers in the fleet what is kept and not there: after a start, or when a server came back.
    pub(super) fn renew(&self, fleet: &Fleet) {
        let known = fleet.permanent();
        for (server, own) in self.endpoints.lock().iter() {
            for (name, KeptEndpoint { url, weight }) in own {
                let is_known = known.iter().any(|(of, known)| of == server && known.name == *name);
                if is_known || fleet.pool(server).is_none() {
                    continue;
                }
                match config::endpoint(url, *weight) {
                    Ok(endpoint) => {
                        let source = Source::Permanent;
                        let registered = Registered { name: name.clone(), endpoint, source };
                        let change = fleet.register(server, registered, now_ms());
                        tracing::info!(
                            server,
                            endpoint = name,
                            url,
                            ?change,
                            "registered for good"
                        );
                    }
                    Err(fault) => {
                        tracing::warn!(server, endpoint = name, url, fault, "not registered again");
                    }
                }
            }
        }
    }
}

/// Reads one of the gateway's own files, which need not exist.
pub(super) fn read<T: DeserializeOwned + Default>(path: &Path) -> io::Result<T> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&text).map_err(|error| {
        let path = path.display();
        io::Error::other(format!(
            "{path} is not what the gateway wrote ({error}); mend or remove it"
        ))
    })
}

/// Writes a whole file that outlives a crash of the machine, for this user only.
pub(super) fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

/// Lets a file that was written take the place of the one before, also after a crash of the machine.
pub(super) fn put_in_place(candidate: &Path, file: &Path) -> io::Result<()> {
    fs::rename(candidate, file)?;
    File::open(file.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{KeptEndpoint, Registrations};
    use serde_json::json;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_kept_is_there_after_a_restart() {
        let directory = std::env::temp_dir().join(format!("toolgate-kept-{}", std::process::id()));
        let kept = KeptEndpoint { url: "http://h/mcp".to_owned(), weight: 2 };
        let registrations = Registrations::open(&directory).expect("nothing yet");
        registrations.keep("files", "a", Some(kept.clone())).expect("kept");
        registrations.keep("files", "b", Some(kept.clone())).expect("kept");
        registrations.keep("files", "b", None).expect("forgotten");
        let routes = vec![json!({ "path": "/new", "server": "new" })];
        let servers = registrations.servers().with("new", json!({ "endpoints": [] }), routes);
        let candidate = registrations.propose(&servers).expect("written");
        assert!(registrations.owns(&candidate) && !registrations.servers().contains("new"));
        registrations.accept(servers).expect("renamed");

        let again = Registrations::open(&directory).expect("both files");
        assert_eq!(again.endpoint("files", "a"), Some(kept));
        assert_eq!(again.endpoint("files", "b"), None);
        assert!(again.servers().contains("new"));
        assert!(again.servers().without("new").routes.is_empty());
        let mode = fs::metadata(again.servers_file()).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(again.servers_file(), "{").expect("written");
        assert!(Registrations::open(&directory).is_err(), "half a file is told, not passed over");
        fs::remove_dir_all(&directory).expect("clean up");
    }
}
