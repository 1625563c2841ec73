//! Requests out of the bytes that the kernel sends. What is too short, too long or not terminated is refused, never
//! guessed: a request is whole or it is [`Malformed`].

use zerocopy::FromBytes;

use super::abi::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, FallocateIn, ForgetIn, ForgetOne, FsyncIn, GetxattrIn, InHeader, InitIn,
    IoctlIn, LinkIn, LseekIn, MkdirIn, MknodIn, OpenIn, ReadIn, ReleaseIn, Rename2In, RenameIn, SetattrIn, SetxattrIn,
    WriteIn, opcode,
};

/// One request.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) header: InHeader,
    pub(super) operation: Operation<'a>,
}

/// What is asked for. Names are without their terminating NUL.
#[derive(Debug)]
pub(super) enum Operation<'a> {
    Lookup(&'a [u8]),
    Forget(ForgetIn),
    BatchForget(&'a [u8]),
    Getattr,
    Statx,
    Setattr(SetattrIn),
    Readlink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    Mknod(MknodIn, &'a [u8]),
    Mkdir(MkdirIn, &'a [u8]),
    Unlink(&'a [u8]),
    Rmdir(&'a [u8]),
    Rename {
        new_dir: u64,
        flags: u32,
        name: &'a [u8],
        new_name: &'a [u8],
    },
    Link(LinkIn, &'a [u8]),
    Open(OpenIn),
    Create(CreateIn, &'a [u8]),
    Tmpfile(CreateIn),
    Read(ReadIn),
    Write(WriteIn, &'a [u8]),
    Release(ReleaseIn),
    Fsync(FsyncIn),
    Opendir,
    Readdir {
        request: ReadIn,
        plus: bool,
    },
    Releasedir(ReleaseIn),
    Fsyncdir(FsyncIn),
    Statfs,
    Setxattr(SetxattrIn, &'a [u8], &'a [u8]),
    Getxattr(GetxattrIn, &'a [u8]),
    Listxattr(GetxattrIn),
    Removexattr(&'a [u8]),
    Fallocate(FallocateIn),
    Ioctl(IoctlIn, &'a [u8]),
    Lseek(LseekIn),
    CopyFileRange {
        request: CopyFileRangeIn,
        wide: bool,
    },
    Init(InitIn),
    Destroy,
    /// An operation that is not served.
    Unknown,
}

/// Bytes that are no request; the number is there if at least the header was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) unique: Option<u64>,
}

/// The bytes behind the header, taken from the front.
struct Arguments<'a> {
    left: &'a [u8],
    /// What follows the structure, if that comes apart from it.
    apart: Option<&'a [u8]>,
}

impl<'a> Arguments<'a> {
    fn take<T: FromBytes>(&mut self) -> Option<T> {
        let (value, rest) = T::read_from_prefix(self.left).ok()?;
        self.left = rest;
        Some(value)
    }

    fn name(&mut self) -> Option<&'a [u8]> {
        let left = self.apart.take().unwrap_or(self.left);
        let end = left.iter().position(|&byte| byte == 0)?;
        let (name, rest) = left.split_at(end);
        self.left = &rest[1..];
        Some(name)
    }

    fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let left = self.apart.take().unwrap_or(self.left);
        let (bytes, rest) = left.split_at_checked(usize::try_from(len).ok()?)?;
        self.left = rest;
        Some(bytes)
    }
}

impl<'a> Request<'a> {
    /// Reads one request. Behind its arguments there may be bytes: extensions of newer kernels.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = InHeader::read_from_prefix(bytes).map_err(|_| Malformed { unique: None })?;
        let malformed = Malformed { unique: Some(header.unique) };
        if header.len as usize != bytes.len() {
            return Err(malformed);
        }
        let mut arguments = Arguments { left: &bytes[size_of::<InHeader>()..], apart: None };
        let operation = operation(header.opcode, &mut arguments).ok_or(malformed)?;
        Ok(Self { header, operation })
    }

    /// The same of a request whose header, structure (with anything behind it) and other arguments come apart.
    pub(super) fn parse_parts(header: &[u8], structure: &'a [u8], payload: &'a [u8]) -> Result<Self, Malformed> {
        let (header, _) = InHeader::read_from_prefix(header).map_err(|_| Malformed { unique: None })?;
        let mut arguments = Arguments { left: structure, apart: Some(payload) };
        let operation = operation(header.opcode, &mut arguments);
        Ok(Self { header, operation: operation.ok_or(Malformed { unique: Some(header.unique) })? })
    }
}

fn operation<'a>(code: u32, arguments: &mut Arguments<'a>) -> Option<Operation<'a>> {
    let a = arguments;
    Some(match code {
        opcode::LOOKUP => Operation::Lookup(a.name()?),
        opcode::FORGET => Operation::Forget(a.take()?),
        opcode::BATCH_FORGET => {
            let count = a.take::<BatchForgetIn>()?.count;
            Operation::BatchForget(a.bytes(count.checked_mul(size_of::<ForgetOne>() as u32)?)?)
        }
        opcode::GETATTR => Operation::Getattr,
        opcode::STATX => Operation::Statx,
        opcode::SETATTR => Operation::Setattr(a.take()?),
        opcode::READLINK => Operation::Readlink,
        opcode::SYMLINK => Operation::Symlink { name: a.name()?, target: a.name()? },
        opcode::MKNOD => Operation::Mknod(a.take()?, a.name()?),
        opcode::MKDIR => Operation::Mkdir(a.take()?, a.name()?),
        opcode::UNLINK => Operation::Unlink(a.name()?),
        opcode::RMDIR => Operation::Rmdir(a.name()?),
        opcode::RENAME => {
            let RenameIn { newdir } = a.take()?;
            Operation::Rename { new_dir: newdir, flags: 0, name: a.name()?, new_name: a.name()? }
        }
        opcode::RENAME2 => {
            let Rename2In { newdir, flags, .. } = a.take()?;
            Operation::Rename { new_dir: newdir, flags, name: a.name()?, new_name: a.name()? }
        }
        opcode::LINK => Operation::Link(a.take()?, a.name()?),
        opcode::OPEN => Operation::Open(a.take()?),
        opcode::CREATE => Operation::Create(a.take()?, a.name()?),
        opcode::TMPFILE => Operation::Tmpfile(a.take()?),
        opcode::READ => Operation::Read(a.take()?),
        opcode::WRITE => {
            let request: WriteIn = a.take()?;
            Operation::Write(request, a.bytes(request.size)?)
        }
        opcode::RELEASE => Operation::Release(a.take()?),
        opcode::FSYNC => Operation::Fsync(a.take()?),
        opcode::OPENDIR => Operation::Opendir,
        opcode::READDIR => Operation::Readdir { request: a.take()?, plus: false },
        opcode::READDIRPLUS => Operation::Readdir { request: a.take()?, plus: true },
        opcode::RELEASEDIR => Operation::Releasedir(a.take()?),
        opcode::FSYNCDIR => Operation::Fsyncdir(a.take()?),
        opcode::STATFS => Operation::Statfs,
        opcode::SETXATTR => {
            let request: SetxattrIn = a.take()?;
            Operation::Setxattr(request, a.name()?, a.bytes(request.size)?)
        }
        opcode::GETXATTR => Operation::Getxattr(a.take()?, a.name()?),
        opcode::LISTXATTR => Operation::Listxattr(a.take()?),
        opcode::REMOVEXATTR => Operation::Removexattr(a.name()?),
        opcode::FALLOCATE => Operation::Fallocate(a.take()?),
        opcode::IOCTL => {
            let request: IoctlIn = a.take()?;
            Operation::Ioctl(request, a.bytes(request.in_size)?)
        }
        opcode::LSEEK => Operation::Lseek(a.take()?),
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange { request: a.take()?, wide: false },
        opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange { request: a.take()?, wide: true },
        opcode::INIT => Operation::Init(init(a.left)?),
        opcode::DESTROY => Operation::Destroy,
        _ => Operation::Unknown,
    })
}

/// `INIT` has 16 bytes before 7.36; what an older kernel does not send is zero.
fn init(bytes: &[u8]) -> Option<InitIn> {
    const OLD_LEN: usize = 16;
    let mut whole = [0; size_of::<InitIn>()];
    let len = bytes.len().min(whole.len());
    if len < OLD_LEN {
        return None;
    }
    whole[..len].copy_from_slice(&bytes[..len]);
    InitIn::read_from_bytes(&whole).ok()
}

/// The entries of `BATCH_FORGET`.
pub(super) fn forgotten(bytes: &[u8]) -> impl Iterator<Item = ForgetOne> {
    bytes.chunks_exact(size_of::<ForgetOne>()).filter_map(|entry| ForgetOne::read_from_bytes(entry).ok())
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn request(code: u32, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode: code, unique: 7, nodeid: 1, ..InHeader::default() };
        [header.as_bytes(), &body].concat()
    }

    #[test]
    fn a_lookup_as_the_kernel_sends_it() {
        let bytes = [
            &[45, 0, 0, 0, 1, 0, 0, 0][..],
            &[7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            &[0xe8, 3, 0, 0, 0xe9, 3, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0],
            b"name\0",
        ]
        .concat();
        let parsed = Request::parse(&bytes).expect("whole");
        assert_eq!((parsed.header.unique, parsed.header.nodeid), (7, 1));
        assert_eq!((parsed.header.uid, parsed.header.gid, parsed.header.pid), (1000, 1001, 42));
        assert!(matches!(parsed.operation, Operation::Lookup(b"name")));
    }

    #[test]
    fn a_write_carries_exactly_its_bytes() {
        let arguments = WriteIn { fh: 3, offset: 4096, size: 5, ..WriteIn::default() };
        let whole = request(opcode::WRITE, &[arguments.as_bytes(), b"hello"]);
        let parsed = Request::parse(&whole).expect("whole");
        assert!(matches!(parsed.operation, Operation::Write(WriteIn { fh: 3, offset: 4096, .. }, b"hello")));
        let short = request(opcode::WRITE, &[arguments.as_bytes(), b"hell"]);
        assert_eq!(Request::parse(&short).expect_err("short"), Malformed { unique: Some(7) });
        let huge = WriteIn { size: u32::MAX, ..arguments };
        assert!(Request::parse(&request(opcode::WRITE, &[huge.as_bytes(), b"hello"])).is_err());
    }

    #[test]
    fn names_end_where_they_say() {
        let rename = Rename2In { newdir: 9, flags: 2, padding: 0 };
        let whole = request(opcode::RENAME2, &[rename.as_bytes(), b"old\0new\0"]);
        let Operation::Rename { new_dir: 9, flags: 2, name: b"old", new_name: b"new" } =
            Request::parse(&whole).expect("whole").operation
        else {
            panic!("a rename");
        };
        assert!(Request::parse(&request(opcode::RENAME2, &[rename.as_bytes(), b"old\0new"])).is_err());
        assert!(Request::parse(&request(opcode::LOOKUP, &[b"name"])).is_err());
        assert!(Request::parse(&request(opcode::LOOKUP, &[])).is_err());
    }

    #[test]
    fn counts_that_do_not_fit_are_refused() {
        let forget = |count: u32, entries: usize| {
            let batch = BatchForgetIn { count, dummy: 0 };
            request(opcode::BATCH_FORGET, &[batch.as_bytes(), &vec![1; entries * size_of::<ForgetOne>()]])
        };
        let whole = forget(2, 2);
        let Operation::BatchForget(entries) = Request::parse(&whole).expect("whole").operation else {
            panic!("a batch");
        };
        assert_eq!(forgotten(entries).count(), 2);
        assert!(Request::parse(&forget(3, 2)).is_err());
        assert!(Request::parse(&forget(u32::MAX, 2)).is_err());
        assert!(Request::parse(&forget(0x1000_0000, 2)).is_err());
    }

    #[test]
    fn parts_are_read_as_the_whole_is() {
        let header = |code| InHeader { opcode: code, unique: 7, ..InHeader::default() };
        let mut structure = [0xff; 128];
        let parsed = Request::parse_parts(header(opcode::LOOKUP).as_bytes(), &structure, b"name\0").expect("whole");
        assert!(matches!(parsed.operation, Operation::Lookup(b"name")));
        let rename = Rename2In { newdir: 9, flags: 2, padding: 0 };
        structure[..16].copy_from_slice(rename.as_bytes());
        let header_bytes = header(opcode::RENAME2);
        let parsed = Request::parse_parts(header_bytes.as_bytes(), &structure, b"old\0new\0").expect("whole");
        let Operation::Rename { new_dir: 9, flags: 2, name: b"old", new_name: b"new" } = parsed.operation else {
            panic!("a rename");
        };
        let short = Request::parse_parts(header_bytes.as_bytes(), &structure, b"old\0new");
        assert_eq!(short.expect_err("not terminated"), Malformed { unique: Some(7) });
        let write = WriteIn { size: 5, ..WriteIn::default() };
        structure[..40].copy_from_slice(write.as_bytes());
        let write = |data| {
            let parsed = Request::parse_parts(header(opcode::WRITE).as_bytes(), &structure, data);
            matches!(parsed.map(|whole| whole.operation), Ok(Operation::Write(_, b"hello")))
        };
        assert!(write(b"hello") && !write(b"hell"));
        assert!(Request::parse_parts(&[0; 39], &structure, &[]).is_err());
    }

    #[test]
    fn the_length_must_be_that_of_what_was_read() {
        let mut bytes = request(opcode::GETATTR, &[]);
        assert!(Request::parse(&bytes).is_ok());
        bytes.push(0);
        assert_eq!(Request::parse(&bytes).expect_err("too long"), Malformed { unique: Some(7) });
        assert_eq!(Request::parse(&bytes[..39]).expect_err("no header"), Malformed { unique: None });
    }

    #[test]
    fn init_of_old_and_new_kernels() {
        let old = request(opcode::INIT, &[&7_u32.to_ne_bytes(), &31_u32.to_ne_bytes(), &[0; 4], &1_u32.to_ne_bytes()]);
        let Operation::Init(old) = Request::parse(&old).expect("old").operation else { panic!("init") };
        assert_eq!((old.minor, old.flags, old.flags2), (31, 1, 0));
        let new = InitIn { major: 7, minor: 45, flags2: 3, ..InitIn::default() };
        let Operation::Init(new) = Request::parse(&request(opcode::INIT, &[new.as_bytes()])).expect("new").operation
        else {
            panic!("init")
        };
        assert_eq!((new.minor, new.flags2), (45, 3));
        assert!(Request::parse(&request(opcode::INIT, &[&[0; 15]])).is_err());
    }
}
