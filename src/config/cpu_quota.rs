//! How many threads the process may keep busy: the CPU quota of its control group, or the CPUs of the machine.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

/// A quota is rounded up, so that 1.5 CPUs are used whole.
pub(super) fn threads() -> usize {
    // The standard library knows about affinity and quotas, but rounds a quota down.
    let available = thread::available_parallelism().map_or(1, NonZero::get);
    match quota(Path::new("/")) {
        Some(quota) if available >= quota.whole.max(1) => quota.rounded_up.max(1),
        Some(_) | None => available,
    }
}

/// CPUs as the control group allows them, rounded both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Quota {
    whole: usize,
    rounded_up: usize,
}

/// The smallest quota on the way from the process's control group to the root.
fn quota(root: &Path) -> Option<Quota> {
    let membership = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let quotas = membership.lines().flat_map(|line| quotas_of_line(root, line));
    quotas.min()
}

/// A line is `id:controllers:path`; version 2 has no controllers.
fn quotas_of_line(root: &Path, line: &str) -> Vec<Quota> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { return Vec::new() };
    let mount = root.join("sys/fs/cgroup");
    if controllers.is_empty() {
        return groups_upwards(&mount, path).iter().filter_map(|group| quota_v2(group)).collect();
    }
    if !controllers.split(',').any(|controller| controller == "cpu") {
        return Vec::new();
    }
    // Distributions mount it under either name, and containers often see their own group as the root.
    let mounts = [mount.join("cpu"), mount.join(controllers)];
    mounts
        .iter()
        .flat_map(|mount| groups_upwards(mount, path))
        .filter_map(|group| quota_v1(&group))
        .collect()
}

fn groups_upwards(mount: &Path, path: &str) -> Vec<PathBuf> {
    let group = mount.join(path.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(mount))
        .map(Path::to_path_buf)
        .collect()
}

fn quota_v2(group: &Path) -> Option<Quota> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    divide(quota, period)
}

fn quota_v1(group: &Path) -> Option<Quota> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    divide(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

/// No quota is written as `max` in version 2 and as -1 in version 1: neither is a number here.
fn divide(quota: &str, period: &str) -> Option<Quota> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    Some(Quota { whole: quota.checked_div(period)?, rounded_up: quota.div_ceil(period) })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Quota, quota};
    use crate::config::tests::directory::TestDirectory;

    #[test]
    fn the_smallest_quota_on_the_way_up_counts() {
        let check = |files: &[(&str, &str)], expected: Option<(usize, usize)>| {
            let root = TestDirectory::new();
            for (name, text) in files {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            let expected = expected.map(|(whole, rounded_up)| Quota { whole, rounded_up });
            assert_eq!(quota(root.path()), expected, "{files:?}");
        };
        let v2 = ("proc/self/cgroup", "0::/\n");
        let nested = ("proc/self/cgroup", "0::/a/b\n");
        let v1 = ("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/x\n");
        check(&[], None);
        check(&[v2], None);
        check(&[v2, ("sys/fs/cgroup/cpu.max", "max 100000\n")], None);
        check(&[v2, ("sys/fs/cgroup/cpu.max", "150000 100000\n")], Some((1, 2)));
        check(&[v2, ("sys/fs/cgroup/cpu.max", "200000 100000\n")], Some((2, 2)));
        check(&[v2, ("sys/fs/cgroup/cpu.max", "50000 0\n")], None);
        check(
            &[
                nested,
                ("sys/fs/cgroup/a/cpu.max", "50000 100000\n"),
                ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ],
            Some((0, 1)),
        );
        check(
            &[
                v1,
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
            None,
        );
        check(
            &[
                v1,
                ("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "250000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
            ],
            Some((2, 3)),
        );
    }
}
