// SPDX-License-Identifier: GPL-2.0-or-later
// POSIX ACLs: what is kept, inherited, and in step with the mode. ACLs are written "u7 g5 o0", named ones
// with an id ("U7:1001", "G4:5"), the mask "m5".
#include "fs_world.h"

struct text_acl {
	size_t bytes;
	uint32_t version;
	struct {
		uint16_t tag, perm;
		uint32_t id;
	} entry[200];
};

static struct text_acl acl(const char *text)
{
	struct text_acl a = { .bytes = 4, .version = 2 };
	static const char letters[] = "uUgGmo";
	int used;

	for (unsigned n = 0; *text; n++, a.bytes += 8) {
		const char *letter = strchr(letters, *text++);
		unsigned perm = 0, id = UINT32_MAX;

		assert_non_null(letter);
		assert_int_equal(sscanf(text, "%1u%n", &perm, &used), 1);
		text += used;
		if (*text == ':') {
			assert_int_equal(sscanf(text, ":%u%n", &id, &used), 1);
			text += used;
		}
		text += *text == ' ';
		a.entry[n].tag = (uint16_t)(1u << (letter - letters));
		a.entry[n].perm = (uint16_t)perm;
		a.entry[n].id = id;
	}
	return a;
}

static int set_acl(object_t id, const char *name, const char *text)
{
	struct text_acl a = acl(text);

	return set_xattr(id, name, &a.version, a.bytes, 0);
}

static void assert_acl(object_t id, const char *name, const char *text)
{
	struct text_acl expected = acl(text), found = { 0 };

	assert_int_equal(get_xattr(id, name, &found.version, sizeof found - sizeof found.bytes), (int)expected.bytes);
	assert_memory_equal(&found.version, &expected.version, expected.bytes);
}

static void assert_no_acl(object_t id, const char *name)
{
	assert_int_equal(get_xattr(id, name, NULL, 0), -ENODATA);
}

static unsigned mode_of(object_t id)
{
	return attr_of(id).st_mode & 07777;
}

static void access_acl_sets_the_mode(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(set_acl(f, ACL_ACCESS, "u6 U7:1001 g4 m5 o1"), 0);
	assert_int_equal(mode_of(f), 0651);
	assert_acl(f, ACL_ACCESS, "u6 U7:1001 g4 m5 o1");
	assert_int_equal(set_acl(f, ACL_ACCESS, "u7 g5 m1 o0"), 0);
	assert_int_equal(mode_of(f), 0710);
	assert_acl(f, ACL_ACCESS, "u7 g5 m1 o0");
	assert_int_equal(set_acl(f, ACL_ACCESS, "u4 g2 o1"), 0); // the mode says it
	assert_int_equal(mode_of(f), 0421);
	assert_no_acl(f, ACL_ACCESS);
	assert_int_equal(set_acl(f, ACL_ACCESS, "u6 g6 o6"), 0);
	assert_int_equal(mode_of(f), 0666);
	assert_int_equal(set_acl(f, ACL_ACCESS, "u6 G4:7 g6 m6 o0"), 0);
	assert_int_equal(remove_xattr(f, ACL_ACCESS), 0);
	assert_int_equal(mode_of(f), 0660);
	assert_int_equal(remove_xattr(f, ACL_ACCESS), -ENODATA);
}

static void access_acl_may_take_setgid_away(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");
	struct text_acl a = acl("u7 g7 m7 o7");

	assert_int_equal(set_attr(f, (struct stat){ .st_mode = 06755 }, FS_SET_MODE), 0);
	assert_int_equal(set_acl(f, ACL_ACCESS, "u7 U7:1 g7 m7 o5"), 0);
	assert_int_equal(mode_of(f), 06775);
	assert_int_equal(set_xattr(f, ACL_ACCESS, &a.version, a.bytes, FS_XATTR_KILL_SGID), 0);
	assert_int_equal(mode_of(f), 04777);
}

static void chmod_changes_the_acl(void **state)
{
	object_t f = file(OBJECT_ROOT, "f");

	assert_int_equal(set_acl(f, ACL_ACCESS, "u6 U7:1001 g4 m5 o1"), 0);
	assert_int_equal(set_attr(f, (struct stat){ .st_mode = 0742 }, FS_SET_MODE), 0);
	assert_acl(f, ACL_ACCESS, "u7 U7:1001 g4 m4 o2");
	assert_int_equal(mode_of(f), 0742);
	assert_int_equal(fill_at(f, 'x', 1, 0), 1);
	assert_int_equal(mode_of(f), 0742);
}

static object_t make_with(object_t dir, const char *name, mode_t mode, mode_t umask)
{
	const struct fs_cred masked = { cred.uid, cred.gid, umask };
	struct stat attr;

	assert_int_equal(RUN(fs_make(op, w.fs, &masked, dir, name, mode, 0, NULL, &attr)), 0);
	return attr.st_ino;
}

static void umask_counts_without_a_default_acl(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), f;

	assert_int_equal(mode_of(make_with(d, "f", S_IFREG | 06666, 027)), 06640);
	assert_int_equal(mode_of(make_with(d, "e", S_IFDIR | 0777, 077)), 0700);
	assert_int_equal(mode_of(make_with(d, "p", S_IFIFO | 0666, 02)), 0664);
	assert_int_equal(set_acl(d, ACL_ACCESS, "u7 U7:1 g7 m7 o7"), 0);
	f = make_with(d, "g", S_IFREG | 0666, 022);
	assert_int_equal(mode_of(f), 0644);
	assert_no_acl(f, ACL_ACCESS);
}

static void default_acl_is_inherited(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), f, e, g;
	struct stat attr;

	assert_int_equal(set_acl(d, ACL_DEFAULT, "u7 U7:1001 g5 G6:5 m7 o5"), 0);
	assert_int_equal(mode_of(d), 0755); // its own does not change
	f = make_with(d, "f", S_IFREG | 0640, 0777);
	assert_int_equal(mode_of(f), 0640);
	assert_acl(f, ACL_ACCESS, "u6 U7:1001 g5 G6:5 m4 o0");
	assert_no_acl(f, ACL_DEFAULT);
	e = make_with(d, "e", S_IFDIR | 0777, 0777);
	assert_int_equal(mode_of(e), 0775);
	assert_acl(e, ACL_ACCESS, "u7 U7:1001 g5 G6:5 m7 o5");
	assert_acl(e, ACL_DEFAULT, "u7 U7:1001 g5 G6:5 m7 o5");
	g = make_with(e, "g", S_IFREG | 0666, 0);
	assert_acl(g, ACL_ACCESS, "u6 U7:1001 g5 G6:5 m6 o4");
	assert_int_equal(mode_of(g), 0664);
	assert_int_equal(RUN(fs_tmpfile(op, w.fs, &cred, d, S_IFREG | 0600, &attr)), 0);
	assert_acl(attr.st_ino, ACL_ACCESS, "u6 U7:1001 g5 G6:5 m0 o0");
	assert_true(make_symlink(d, "l", "target") > 0);
	assert_int_equal(attr_of((object_t)lookup(d, "l")).st_mode, S_IFLNK | 0777);
	assert_int_equal(remove_xattr(d, ACL_DEFAULT), 0);
	assert_no_acl(make_with(d, "h", S_IFREG | 0666, 022), ACL_ACCESS);
}

static void default_acl_that_is_a_mode_only_masks(void **state)
{
	object_t d = directory(OBJECT_ROOT, "d"), f, e;

	assert_int_equal(set_acl(d, ACL_DEFAULT, "u6 g4 o0"), 0);
	f = make_with(d, "f", S_IFREG | 0777, 0777);
	assert_int_equal(mode_of(f), 0640);
	assert_no_acl(f, ACL_ACCESS);
	e = make_with(d, "e", S_IFDIR | 0777, 0777);
	assert_int_equal(mode_of(e), 0640);
	assert_no_acl(e, ACL_ACCESS);
	assert_acl(e, ACL_DEFAULT, "u6 g4 o0");
}

static void both_acls_of_one_hash_are_inherited(void **state)
{
	object_t d, e;

	name_hash_mask = 0;
	d = directory(OBJECT_ROOT, "d");
	assert_int_equal(set_acl(d, ACL_DEFAULT, "u7 U7:1 g7 m7 o7"), 0);
	e = directory(d, "e");
	assert_acl(e, ACL_ACCESS, "u7 U7:1 g7 m5 o5");
	assert_acl(e, ACL_DEFAULT, "u7 U7:1 g7 m7 o7");
	check_world();
	assert_int_equal(remove_directory(d, "e"), 0);
	fs_forgotten(w.fs, e);
	assert_int_equal(drop_orphans(), 1);
	assert_int_equal(remove_directory(OBJECT_ROOT, "d"), 0);
	fs_forgotten(w.fs, d);
	assert_int_equal(drop_orphans(), 1);
	name_hash_mask = UINT64_MAX;
}

static void malformed_acls_are_refused(void **state)
{
	static const char *const wrong[] = { "", "u7", "u7 g7", "u7 u7 g7 o7", "u7 g7 o7 o7", "u7 U7:1 g7 o7", "u9 g7 o7" };
	object_t f = file(OBJECT_ROOT, "f"), d = directory(OBJECT_ROOT, "d");
	struct text_acl a = acl("u7 g7 o7");

	for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
		assert_int_equal(set_acl(f, ACL_ACCESS, wrong[i]), -EINVAL);
	assert_int_equal(set_xattr(f, ACL_ACCESS, &a.version, a.bytes - 1, 0), -EINVAL);
	assert_int_equal(set_xattr(f, ACL_ACCESS, &a.version, 3, 0), -EINVAL);
	a.version = 1;
	assert_int_equal(set_xattr(f, ACL_ACCESS, &a.version, a.bytes, 0), -EINVAL);
	assert_int_equal(set_acl(f, ACL_DEFAULT, "u7 g7 o7"), -EACCES);
	assert_int_equal(set_acl((object_t)make_symlink(OBJECT_ROOT, "l", "t"), ACL_ACCESS, "u7 g7 o7"), -EOPNOTSUPP);
	assert_int_equal(mode_of(f), 0644);
	a = acl("u7 g7 m7 o7");
	for (; a.bytes <= ACL_BYTES_MAX - 8; a.bytes += 8) {
		unsigned n = (unsigned)(a.bytes - 4) / 8;

		a.entry[n].tag = 2;
		a.entry[n].perm = 7;
		a.entry[n].id = n;
	}
	assert_int_equal((a.bytes - 4) / 8, 122);
	assert_int_equal(set_xattr(d, ACL_DEFAULT, &a.version, a.bytes, 0), 0);
	assert_int_equal(mode_of(directory(d, "e")), 0755);
	assert_int_equal(set_xattr(f, ACL_ACCESS, &a.version, a.bytes + 8, 0), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(access_acl_sets_the_mode),
		TEST(access_acl_may_take_setgid_away),
		TEST(chmod_changes_the_acl),
		TEST(umask_counts_without_a_default_acl),
		TEST(default_acl_is_inherited),
		TEST(default_acl_that_is_a_mode_only_masks),
		TEST(both_acls_of_one_hash_are_inherited),
		TEST(malformed_acls_are_refused),
	};
	return cmocka_run_group_tests_name("fs_acl", tests, NULL, NULL);
}
