// plugin.c: what test_modules.c loads: modules of one layout that differ in ANSWER and build-id only.

int plugin_answer(void);

int plugin_answer(void)
{
	return ANSWER;
}
