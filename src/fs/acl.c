// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX access control lists, as the kernel has them in an xattr: it checks permissions by them, and
// leaves to us that a new object inherits from its directory, and that access ACL and mode agree.
//
// 1. An access ACL says more than the mode: what the mode can say alone is not kept as an ACL.
// 2. The permissions of owner, mask and others in the access ACL are those of the mode.
// 3. INODE_ACL and INODE_DEFAULT_ACL say that there is one, so that few ever look.
// 4. An ACL fits an item, so that a new object and what it inherits are one commit without pages.
#include "fs_impl.h"

#define ACL_VERSION 2u
enum acl_tag { ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_GROUP = 8, ACL_MASK = 16, ACL_OTHER = 32 };

struct acl_entry_disk {
	uint16_t tag, perm;
	uint32_t id;
};
struct acl_disk {
	uint32_t version;
	struct acl_entry_disk entry[];
};

struct acl { // a value, parsed
	union {
		struct acl_disk disk;
		uint8_t raw[ACL_BYTES_MAX];
	};
	size_t bytes;
	unsigned count;
	struct acl_entry_disk *owner, *group, *mask, *other; // mask may be NULL
	bool named;                                           // users or groups
};

static int acl_parse(struct acl *acl)
{
	acl->owner = acl->group = acl->mask = acl->other = NULL;
	acl->named = false;
	if (acl->bytes < sizeof acl->disk || (acl->bytes - sizeof acl->disk) % sizeof(struct acl_entry_disk) ||
	    acl->disk.version != ACL_VERSION)
		return -EINVAL;
	acl->count = (unsigned)((acl->bytes - sizeof acl->disk) / sizeof(struct acl_entry_disk));
	for (unsigned i = 0; i < acl->count; i++) {
		struct acl_entry_disk *e = &acl->disk.entry[i], **place;

		if (e->perm & ~7u)
			return -EINVAL;
		switch (e->tag) {
		case ACL_USER:
		case ACL_GROUP:
			acl->named = true;
			continue;
		case ACL_USER_OBJ:
			place = &acl->owner;
			break;
		case ACL_GROUP_OBJ:
			place = &acl->group;
			break;
		case ACL_MASK:
			place = &acl->mask;
			break;
		case ACL_OTHER:
			place = &acl->other;
			break;
		default:
			return -EINVAL;
		}
		if (*place)
			return -EINVAL;
		*place = e;
	}
	return acl->owner && acl->group && acl->other && (acl->mask || !acl->named) ? 0 : -EINVAL;
}

// What the group bits of the mode are about.
static struct acl_entry_disk *acl_class(const struct acl *acl)
{
	return acl->mask ? acl->mask : acl->group;
}

static unsigned acl_mode(const struct acl *acl)
{
	return (unsigned)acl->owner->perm << 6 | (unsigned)acl_class(acl)->perm << 3 | acl->other->perm;
}

static bool acl_is_mode(const struct acl *acl)
{
	return !acl->named && !acl->mask;
}

int acl_prepare(struct inode *inode, const char *name, const void *value, size_t bytes, bool *ret_needless)
{
	struct acl acl = { .bytes = bytes };
	int r;

	*ret_needless = false;
	if (inode_is(inode, S_IFLNK))
		return -EOPNOTSUPP;
	if (bytes > ACL_BYTES_MAX)
		return -ENOSPC;
	memcpy(acl.raw, value, bytes);
	r = acl_parse(&acl);
	if (r)
		return r;
	if (!strcmp(name, ACL_DEFAULT))
		return inode_is(inode, S_IFDIR) ? 0 : -EACCES;
	inode->disk.mode = (inode->disk.mode & ~0777u) | acl_mode(&acl);
	*ret_needless = acl_is_mode(&acl);
	return 0;
}

static int acl_load(struct op *op, object_t id, const char *name, struct chain *ret_chain, struct acl *ret_acl)
{
	int r = chain_find(op, id, ITEM_XATTR, name, strlen(name), ret_chain);

	if (r)
		return r;
	if (!ret_chain->found || ret_chain->xattr.object || ret_chain->xattr.value_bytes > ACL_BYTES_MAX) {
		log_error("object %llu: the value of %s is missing or malformed", (unsigned long long)id, name);
		return -EUCLEAN;
	}
	ret_acl->bytes = ret_chain->xattr.value_bytes;
	memcpy(ret_acl->raw, ret_chain->xattr.name + ret_chain->xattr.name_bytes, ret_acl->bytes);
	r = acl_parse(ret_acl);
	if (r)
		log_error("object %llu: the value of %s is malformed", (unsigned long long)id, name);
	return r ? -EUCLEAN : 0;
}

int acl_chmod(struct op *op, const struct inode *inode)
{
	struct chain chain;
	struct acl acl;
	int r;

	if (!(inode->disk.flags & INODE_ACL))
		return 0;
	r = acl_load(op, inode->id, ACL_ACCESS, &chain, &acl);
	if (r)
		return r;
	acl.owner->perm = inode->disk.mode >> 6 & 7;
	acl_class(&acl)->perm = inode->disk.mode >> 3 & 7;
	acl.other->perm = inode->disk.mode & 7;
	return xattr_put(op, chain.key, ACL_ACCESS, acl.raw, acl.bytes);
}

// Both names may have one hash. The object has no other items yet.
static int put_inherited(struct op *op, struct inode *inode, const char *name, const struct acl *acl)
{
	uint64_t hash = name_hash(name, strlen(name));
	unsigned ordinal = inode->disk.flags & INODE_ACL && hash == name_hash(ACL_ACCESS, strlen(ACL_ACCESS));

	inode->disk.xattrs++;
	inode->disk.flags |= xattr_flag(name);
	return xattr_put(op, item_key(inode->id, ITEM_XATTR, hash * NAME_ORDINALS + ordinal), name, acl->raw, acl->bytes);
}

// The default ACL becomes the access ACL, as far as the mode allows; the mode, as far as the ACL does.
int acl_inherit(struct op *op, const struct inode *dir, mode_t umask, struct inode *inode)
{
	struct acl inherited, access;
	struct chain chain;
	uint32_t mode = inode->disk.mode;
	int r = 0;

	if (inode_is(inode, S_IFLNK))
		return 0;
	if (!(dir->disk.flags & INODE_DEFAULT_ACL)) {
		inode->disk.mode &= ~(umask & 0777);
		return 0;
	}
	r = acl_load(op, dir->id, ACL_DEFAULT, &chain, &inherited);
	if (r)
		return r;
	access.bytes = inherited.bytes;
	memcpy(access.raw, inherited.raw, inherited.bytes);
	acl_parse(&access); // as before
	access.owner->perm &= mode >> 6 & 7;
	acl_class(&access)->perm &= mode >> 3 & 7;
	access.other->perm &= mode & 7;
	inode->disk.mode = (mode & ~0777u) | acl_mode(&access);
	if (!acl_is_mode(&access))
		r = put_inherited(op, inode, ACL_ACCESS, &access);
	if (!r && inode_is(inode, S_IFDIR))
		r = put_inherited(op, inode, ACL_DEFAULT, &inherited);
	return r;
}
