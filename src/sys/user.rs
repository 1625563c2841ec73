//! Names of users (passwd(5)).

use std::fs;

/// The name of the user `uid`; the number where the user database does not know it.
pub fn name_of(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    find(uid, &passwd).unwrap_or_else(|| uid.to_string())
}

/// The name of this process's user.
pub fn own_name() -> String {
    name_of(rustix::process::geteuid().as_raw())
}

fn find(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|n| !n.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n:x:7:7::/:\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        assert_eq!(find(1000, passwd).as_deref(), Some("alice"));
        assert_eq!(find(0, passwd).as_deref(), Some("root"));
        assert_eq!(find(7, passwd), None);
        assert_eq!(find(8, passwd), None);
        assert!(!own_name().is_empty());
    }
}
