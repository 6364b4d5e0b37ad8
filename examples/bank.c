/* Two accounts, each with a lock; two transfers that take them in two orders. cc -g -pthread -o bank bank.c */
#include <pthread.h>
#include <unistd.h>

struct account {
	pthread_mutex_t lock;
	long balance;
};
static struct account a = {PTHREAD_MUTEX_INITIALIZER, 100}, b = {PTHREAD_MUTEX_INITIALIZER, 100};

static void transfer(struct account *from, struct account *to)
{
	pthread_mutex_lock(&from->lock);
	usleep(500000);
	pthread_mutex_lock(&to->lock);
	from->balance -= 10;
	to->balance += 10;
	pthread_mutex_unlock(&to->lock);
	pthread_mutex_unlock(&from->lock);
}

static void *there(void *unused)
{
	transfer(&a, &b);
	return unused;
}

static void *back(void *unused)
{
	transfer(&b, &a);
	return unused;
}

int main(void)
{
	pthread_t t[2];

	pthread_create(&t[0], NULL, there, NULL);
	pthread_create(&t[1], NULL, back, NULL);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	return 0;
}
